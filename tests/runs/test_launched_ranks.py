"""`orpo train` in two processes: the run of one process, the logs of ranks, and the error of a rank as that of the command."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.launched import FAULTS, assert_same_training, train, write_inputs, write_rank_recipe

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The folders of a training in one process and of the same in two, and what the latter printed."""
    root = tmp_path_factory.mktemp("launched")
    inputs = write_inputs(root)
    one, two = (write_rank_recipe(root / name, inputs, count) for name, count in (("one", 1), ("two", 2)))
    done = train(one)
    assert done.returncode == 0, done.stderr
    done = train(two, "--json")
    assert done.returncode == 0, done.stderr
    return {"inputs": inputs, "one": one, "two": two, "printed": done}


def test_two_processes_train_the_run_of_one(trained: dict[str, Any]) -> None:
    assert_same_training(trained["two"] / "run", trained["one"] / "run")


def test_two_processes_write_one_run_directory(trained: dict[str, Any]) -> None:
    one, two = trained["one"] / "run", trained["two"] / "run"
    names = {path.relative_to(two).as_posix() for path in two.rglob("*") if path.is_file()}
    ranks = {"logs/attempt-1/rank-0.log", "logs/attempt-1/rank-1.log"}
    of_ranks = {f"checkpoints/checkpoint-{step}/rng_state_{rank}.pth" for step in (2, 4, 6) for rank in (0, 1)}
    of_one = {f"checkpoints/checkpoint-{step}/rng_state.pth" for step in (2, 4, 6)}
    assert {
        path.relative_to(one).as_posix() for path in one.rglob("*") if path.is_file()
    } - of_one == names - ranks - of_ranks
    assert ranks <= names
    record = json.loads((two / "run.json").read_text())
    (attempt,) = record["attempts"]
    assert (record["status"], attempt["reason"], attempt["to_step"], record["steps"]) == ("finished", "finished", 6, 6)
    assert record["fingerprints"] == json.loads((one / "run.json").read_text())["fingerprints"]


def test_rank_0_has_the_display_and_the_parent_the_result(trained: dict[str, Any]) -> None:
    printed = trained["printed"]
    assert json.loads(printed.stdout)["status"] == "finished"
    assert printed.stderr.count("step 6/6") == 1
    assert "starting 2 processes; their logs are in" in printed.stderr
    assert "torch.distributed" not in printed.stderr
    logs = trained["two"] / "run" / "logs" / "attempt-1"
    assert "step 6/6" in (logs / "rank-0.log").read_text()


def test_an_error_of_a_rank_is_the_only_error_of_the_command(trained: dict[str, Any], tmp_path: Path) -> None:
    folder = write_rank_recipe(tmp_path / "run", trained["inputs"], 2)
    done = train(folder, "--json", PYTHONPATH=str(FAULTS), ORPO_TEST_FAULT="1 data")
    assert done.returncode == 4
    errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert errors == ["error: injected: no pairs"]
    assert "  → Remove the fault." in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["message"] == "injected: no pairs"
    assert not (folder / "run").exists()


def test_a_dry_run_prints_the_command_and_starts_nothing(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_rank_recipe(tmp_path / "run", write_inputs(tmp_path), 2)
    monkeypatch.chdir(folder)
    done = orpo_here("train", "recipe.yaml", "--dry-run", "--json")
    (machine,) = json.loads(done.stdout)["machines"]
    assert machine["environment"] == {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // 2))}
    assert machine["command"][1:3] == ["-m", "torch.distributed.run"]
    assert machine["command"][-5:] == ["--module", "orpo_cli", "train", "recipe.yaml", "--json"]
    assert not (folder / "run").exists()
