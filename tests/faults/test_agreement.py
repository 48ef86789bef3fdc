"""Faults on one of several ranks: a signal or a full disk ends all of them at the same step, and the run goes on elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.rank_runs import FAULTS, train

pytestmark = pytest.mark.timeout(900)
STOPS = {"stop-in-step": 3, "stop-in-evaluation": 2, "stop-in-save": 2, "stop-of-first-rank": 1}
Results = dict[str, Any]


def run_ranks(ranks: int, out: Path, *arguments: Path) -> list[Results]:
    out.mkdir()
    tests = Path(__file__).parents[1]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m", "support.rank_runs"]
    done = subprocess.run(
        [sys.executable, *launcher, str(out), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": f"{tests}:{tests.parent}", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(ranks)]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """The folder and the results of one process."""
    folder = tmp_path_factory.mktemp("one")
    return folder, train(folder)


@pytest.fixture(scope="module")
def two(one: tuple[Path, Results], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Results]]:
    """The folder and the results of two ranks."""
    folder = tmp_path_factory.mktemp("ranks") / "two"
    return folder, run_ranks(2, folder, one[0])


def assert_same_run(found: Results, expected: Results, *, exact: bool = False) -> None:
    assert found["error"] == expected["error"] == ""
    assert [line["step"] for line in found["history"]] == [line["step"] for line in expected["history"]]
    for line, expected_line in zip(found["history"], expected["history"], strict=True):
        for name in {"loss", "eval_loss", "grad_norm"} & expected_line.keys():
            assert line[name] == pytest.approx(expected_line[name], rel=0 if exact else 2e-6), line["step"]
    for name, weight in expected["weights"].items():
        tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-3, "atol": 1e-5}
        torch.testing.assert_close(torch.tensor(found["weights"][name]), torch.tensor(weight), **tolerance)


@pytest.mark.parametrize("case", STOPS)
def test_a_signal_to_one_rank_stops_all_after_the_same_step(case: str, two: tuple[Path, list[Results]]) -> None:
    first, second = (each[case] for each in two[1])
    assert first["error"] == second["error"] == "Interrupted"
    assert first["step"] == second["step"] == STOPS[case]
    assert first["checkpoints"][-1] == f"checkpoint-{STOPS[case]}"
    assert first["files"] == first["checkpoints"]  # no staging folder
    causes = ["SIGTERM", "SIGTERM, rank 0"] if case == "stop-of-first-rank" else ["SIGTERM, rank 1", "SIGTERM"]
    assert [first["cause"], second["cause"]] == causes
    assert f"{causes[0]}: stopping after this step" in first["notes"][0]


@pytest.mark.parametrize("case", STOPS)
def test_a_run_that_one_rank_has_stopped_ends_as_an_undisturbed_one(case: str, two: tuple[Path, list[Results]]) -> None:
    for of_rank in two[1]:
        assert_same_run(of_rank[f"{case}-resumed"], of_rank["undisturbed"], exact=True)


def test_the_first_rank_decides_that_the_time_is_up(two: tuple[Path, list[Results]]) -> None:
    first, second = (each["deadline"] for each in two[1])
    assert (first["error"], second["error"]) == ("Interrupted", "Interrupted")
    assert (first["cause"], second["cause"]) == ("save_before", "save_before, rank 0")
    assert first["step"] == second["step"] == 1
    assert first["checkpoints"] == ["checkpoint-1"]
    assert not any("before" in note and "(test)" in note for note in second["notes"])


def test_a_watchdog_of_the_first_rank_stops_all_with_the_same_error(two: tuple[Path, list[Results]]) -> None:
    first, second = (each["watchdog"] for each in two[1])
    assert first["error"] == second["error"] == "RunError"
    assert first["message"] == second["message"]
    assert "training.watchdogs.loss_spike has stopped the run at step 4" in first["message"]
    assert first["step"] == second["step"] == 4
    assert first["checkpoints"][-1] == "checkpoint-4"
    assert first["cause"] is second["cause"] is None


@pytest.mark.parametrize("case", [case for case in FAULTS if case.startswith("disk")])
def test_a_disk_that_is_full_for_one_rank_ends_all(case: str, two: tuple[Path, list[Results]]) -> None:
    rank, _, step = FAULTS[case]
    failed, other = two[1][rank][case], two[1][1 - rank][case]
    assert failed["error"] == "OSError"
    assert other["error"] == "OtherRankFailed"
    assert other["message"].startswith(f"rank {rank} failed: ")
    assert "No space left" in other["message"]
    assert failed["step"] == other["step"]
    kept = ["checkpoint-2"] if step == 4 else []  # the one before it
    assert two[1][0][case]["checkpoints"] == two[1][0][case]["files"] == kept


def test_two_ranks_continue_a_run_of_one_process(one: tuple[Path, Results], two: tuple[Path, list[Results]]) -> None:
    for of_rank in two[1]:
        assert_same_run(of_rank["from-one"], one[1])


def test_one_process_continues_a_run_of_two_ranks(
    one: tuple[Path, Results], two: tuple[Path, list[Results]], tmp_path: Path
) -> None:
    checkpoint = two[0] / "undisturbed" / "checkpoints" / "checkpoint-2"
    assert_same_run(train(tmp_path, resume_from=checkpoint), one[1])


def test_each_rank_continues_with_its_own_random_numbers(two: tuple[Path, list[Results]], tmp_path: Path) -> None:
    for of_rank in two[1]:
        assert_same_run(of_rank["dropout-resumed"], of_rank["dropout"], exact=True)
        assert of_rank["dropout-resumed"]["notes"] == []
    checkpoint = two[0] / "dropout" / "checkpoints" / "checkpoint-2"
    alone = train(tmp_path, dropout=True, resume_from=checkpoint)
    assert alone["error"] == ""
    assert any("masks of dropout" in note for note in alone["notes"])


@pytest.mark.slow
def test_four_ranks_continue_a_run_of_two(
    one: tuple[Path, Results], two: tuple[Path, list[Results]], tmp_path: Path
) -> None:
    checkpoint = two[0] / "undisturbed" / "checkpoints" / "checkpoint-4"
    for of_rank in run_ranks(4, tmp_path / "four", checkpoint):
        assert_same_run(of_rank["resumed"], one[1])
