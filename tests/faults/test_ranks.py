"""Faults of several ranks: signals, kills, bugs, a machine that does not come, and other launchers. Two processes on CPUs."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.launched import (
    FAULTS,
    INT,
    KILL,
    TERM,
    assert_same_training,
    attempts,
    last_step,
    ranks_of,
    train,
    training,
    wait_for_step,
    wait_until_gone,
    write_inputs,
    write_rank_recipe,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SETTINGS: dict[str, Any] = {"max_steps": 120, "eval_strategy": "no", "save_steps": 20, "save_total_limit": 2}
GONE_SECONDS = 30  # in which a job ends after the kill of a rank
RESUME = ("--resume", "auto")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of model and pairs."""
    return write_inputs(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def undisturbed(inputs: Path) -> Path:
    """The folder of the undisturbed training."""
    folder = write_rank_recipe(inputs / "undisturbed", inputs, 2, **SETTINGS)
    done = train(folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(inputs: Path, tmp_path: Path) -> Path:
    """A folder with the same recipe."""
    return write_rank_recipe(tmp_path / "case", inputs, 2, **SETTINGS)


def finish(folder: Path, undisturbed: Path) -> None:
    """Resume, and compare with the undisturbed training, bit by bit."""
    done = train(folder, *RESUME)
    assert done.returncode == 0, done.stderr
    assert_same_training(folder / "run", undisturbed / "run", relative=0)


@pytest.mark.parametrize(
    ("target", "number", "cause"),
    [
        ("parent", TERM, "SIGTERM"),
        ("parent", INT, "SIGINT"),
        (0, TERM, "SIGTERM"),
        (1, TERM, "SIGTERM, rank 1"),
    ],
)
def test_a_signal_stops_all_ranks_at_the_same_step(
    folder: Path, undisturbed: Path, target: Any, number: int, cause: str
) -> None:
    with training(folder) as process:
        wait_for_step(folder, 12, process)
        ranks = ranks_of(process.pid)
        (psutil.Process(process.pid) if target == "parent" else ranks[target]).send_signal(number)
        assert process.wait(120) == 130
        wait_until_gone(list(ranks.values()), 5)
    said = (folder / "stderr").read_text()
    step = last_step(folder / "run")
    assert f"the last checkpoint is {folder}/run/checkpoints/checkpoint-{step}" in said
    (attempt,) = attempts(folder / "run")
    assert (attempt["reason"], attempt["detail"], attempt["to_step"]) == ("interrupted", cause, step)
    assert len([line for line in said.splitlines() if line.startswith(("error", "interrupted ("))]) == 1
    finish(folder, undisturbed)


def test_a_second_ctrl_c_ends_all_ranks(folder: Path) -> None:
    with training(folder) as process:
        wait_for_step(folder, 5, process)
        ranks = ranks_of(process.pid)
        process.send_signal(INT)
        process.send_signal(INT)
        assert process.wait(GONE_SECONDS) == 130
        wait_until_gone(list(ranks.values()), 2)


@pytest.mark.parametrize("target", ["parent", 1])
def test_a_signal_before_the_first_step_ends_all_ranks(folder: Path, target: Any) -> None:
    """Rank 0 waits for rank 1, in code that handles no signal."""
    with training(folder, PYTHONPATH=str(FAULTS), ORPO_TEST_FAULT="1 load") as process:
        deadline = time.monotonic() + 300
        while not (folder / "run" / "logs" / "attempt-1" / "rank-0.log").exists():
            assert time.monotonic() < deadline, (folder / "stderr").read_text()
            time.sleep(0.1)
        time.sleep(5)
        ranks = ranks_of(process.pid)
        (psutil.Process(process.pid) if target == "parent" else ranks[target]).send_signal(TERM)
        assert process.wait(GONE_SECONDS) == 130
        wait_until_gone(list(ranks.values()), 2)
    assert "there was no step yet, and the run is removed" in (folder / "stderr").read_text()
    assert not (folder / "run" / "run.json").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_job_and_is_named(folder: Path, undisturbed: Path, rank: int) -> None:
    with training(folder) as process:
        wait_for_step(folder, 25, process)
        ranks = ranks_of(process.pid)
        started = time.monotonic()
        ranks[rank].send_signal(KILL)
        assert process.wait(GONE_SECONDS) == 5
        wait_until_gone(list(ranks.values()), 2)
        assert time.monotonic() - started < GONE_SECONDS
    said = (folder / "stderr").read_text()
    errors = [line for line in said.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert re.match(rf"error: rank {rank} \(process {ranks[rank].pid} on .*\) was killed by SIGKILL\.", errors[0])
    (attempt,) = attempts(folder / "run")
    assert attempt["reason"] == "failed"
    finish(folder, undisturbed)


def test_when_the_parent_is_killed_the_ranks_save_and_leave(folder: Path, undisturbed: Path) -> None:
    with training(folder) as process:
        wait_for_step(folder, 12, process)
        ranks = ranks_of(process.pid)
        process.send_signal(KILL)
        process.wait()
        wait_until_gone(list(ranks.values()), 60)
    step = last_step(folder / "run")
    assert step < SETTINGS["max_steps"]
    assert (folder / "run" / "checkpoints" / f"checkpoint-{step}").is_dir()
    finish(folder, undisturbed)
    assert [each["reason"] for each in attempts(folder / "run")] == ["killed", "finished"]


@pytest.mark.parametrize(("kind", "code"), [("bug", 1), ("kill", 5)])
def test_a_rank_that_fails_before_the_first_step_leaves_no_run(folder: Path, kind: str, code: int) -> None:
    done = train(folder, PYTHONPATH=str(FAULTS), ORPO_TEST_FAULT=f"1 {kind}")
    assert done.returncode == code
    assert done.stderr.count("Traceback") == (kind == "bug")
    assert "ChildFailedError" not in done.stderr
    assert "rank 1" in done.stderr
    assert not (folder / "run" / "run.json").exists()


def test_a_port_that_is_taken_is_named(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = train(folder, "--set", f"launch.main_process_port={port}")
    assert done.returncode == 3
    assert f"the processes cannot meet at 127.0.0.1:{port}" in done.stderr
    assert not (folder / "run" / "run.json").exists()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def machine_options(rank: int, port: int, seconds: int = 300) -> list[str]:
    settings = {
        "num_machines": 2, "machine_rank": rank, "main_process_ip": "127.0.0.1", "main_process_port": port,
        "rdzv_conf": json.dumps({"timeout": seconds}),
    }  # fmt: skip
    return [part for name, value in settings.items() for part in ("--set", f"launch.{name}={value}")]


def test_two_machines_train_one_run(folder: Path, undisturbed: Path, tmp_path: Path) -> None:
    port = free_port()
    other = tmp_path / "other"
    other.mkdir()
    (other / "recipe.yaml").write_text((folder / "recipe.yaml").read_text())
    with training(other, *machine_options(1, port), "--set", f"output_dir={folder / 'run'}") as second:
        done = train(folder, *machine_options(0, port))
        assert done.returncode == 0, done.stderr
        assert second.wait(60) == 0, (other / "stderr").read_text()
    assert_same_training(folder / "run", undisturbed / "run", relative=0)


@pytest.mark.parametrize(
    ("rank", "said"), [(0, "machine 1 of 2 has not joined within 5 s"), (1, "machine 0 does not answer at")]
)
def test_a_machine_that_does_not_come_is_named(folder: Path, rank: int, said: str) -> None:
    done = train(folder, *machine_options(rank, free_port(), 5))
    assert done.returncode == 3
    assert said in done.stderr
    assert not (folder / "run" / "run.json").exists()


LAUNCHERS = {
    "torchrun": ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--module", "orpo_cli"),
    "accelerate": (
        "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=bf16",
        "--dynamo_backend=no", "--main_process_port=0", "--module", "orpo_cli",
    ),
}  # fmt: skip


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_other_launchers_start_the_same_run(folder: Path, undisturbed: Path, launcher: str) -> None:
    done = train(folder, "--json", launcher=LAUNCHERS[launcher])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "finished"
    assert_same_training(folder / "run", undisturbed / "run", relative=0)
    logs = folder / "run" / "logs" / "attempt-1"
    assert sorted(path.name for path in logs.iterdir()) == ["rank-0.log", "rank-1.log"]


@pytest.mark.parametrize("rank", [0, 1])
def test_under_torchrun_the_rank_that_failed_reports_its_error(folder: Path, rank: int) -> None:
    done = train(folder, launcher=LAUNCHERS["torchrun"], PYTHONPATH=str(FAULTS), ORPO_TEST_FAULT=f"{rank} data")
    assert done.returncode != 0
    assert done.stderr.count("error: injected: no pairs") == 1
    assert not (folder / "run" / "run.json").exists()


def test_under_torchrun_the_number_of_processes_must_be_that_of_the_recipe(folder: Path) -> None:
    done = train(folder, "--set", "launch.num_processes=3", launcher=LAUNCHERS["torchrun"])
    assert done.returncode != 0
    assert done.stderr.count("error: launch.num_processes is 3, but 2 processes were started") == 1


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 4)])
def test_a_run_goes_on_with_another_number_of_processes(
    undisturbed: Path, tmp_path: Path, before: int, after: int
) -> None:
    """The same pairs in each step, so the same run up to rounding."""
    settings = SETTINGS | {"max_steps": 40}
    whole = write_rank_recipe(tmp_path / "whole", undisturbed.parent, 1, **settings)
    folder = write_rank_recipe(tmp_path / "case", undisturbed.parent, before, **settings)
    assert train(whole).returncode == 0
    with training(folder) as process:
        wait_for_step(folder, 4, process)
        process.send_signal(TERM)
        assert process.wait(120) == 130
    done = train(folder, *RESUME, "--set", f"launch.num_processes={after}")
    assert done.returncode == 0, done.stderr
    assert f"launch.num_processes: {before} → {after}" in done.stderr
    assert_same_training(folder / "run", whole / "run", relative=1e-4)
    launch = json.loads((folder / "run" / "plan.json").read_text())["launch"]
    assert (launch["num_processes"]["value"], launch["pairs_per_step"]["value"]) == (after, 8)
    assert [each["reason"] for each in attempts(folder / "run")] == ["interrupted", "finished"]
    done = train(folder, *RESUME)  # with the recipe's own number
    assert "there is nothing to resume" in done.stderr
