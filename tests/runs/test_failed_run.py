"""A run that fails keeps its checkpoints, whatever ends it, and `--resume auto` finishes it."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.forked_command import ForkedCommand, StopPoint
from support.killed_run import code_of_killed, make_run_of_version_0_2_0
from support.tiny import write_recipe

from orpo_cli.errors import UsageError
from orpo_cli.run_attempts import FINISHED
from orpo_cli.run_creation import discard_run
from orpo_cli.rundir import RunDir
from orpo_cli.training.metrics_file import restore_metrics
from orpo_cli.training.metrics_log import MetricsCallback

STEPS, SAVE_STEPS = 10, 4
RESUME = ("--resume", "auto")
EPOCH = {"logging_strategy": "epoch", "per_device_train_batch_size": 2}  # 12 steps, more than are trained


def out_of_memory(_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def disk_full(_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def nan_loss(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))


def bug(_: Any) -> None:
    raise ZeroDivisionError("division by zero")


KILL = None  # SIGKILL, which takes a process of its own
FAILURES = (out_of_memory, disk_full, nan_loss, bug, KILL)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, orpo_here: Callable[..., Any]) -> Callable[..., int]:
    """``failing(bug, 9, "train", …)`` runs the command with a failure in step 9; its exit code, or minus the signal's number."""
    on_step_begin = MetricsCallback.on_step_begin

    def run(failure: Callable[[Any], None] | None, number: int, *arguments: Any) -> int:
        if failure is None:
            return code_of_killed(number, *arguments)

        def begin(self: MetricsCallback, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step + 1 == number:
                failure(more["model"])
            on_step_begin(self, args, state, control, **more)

        with monkeypatch.context() as patched:
            patched.setattr(MetricsCallback, "on_step_begin", begin)
            if failure is bug:  # the exception leaves main(), for sys.excepthook
                with pytest.raises(ZeroDivisionError):
                    orpo_here(*arguments)
                return 1
            return int(orpo_here(*arguments).returncode)

    return run


def recipe_that_logs_late(folder: Path, **training: object) -> Path:
    """A recipe whose first line of metrics comes after its last checkpoint."""
    training = {"save_strategy": "steps", "save_steps": SAVE_STEPS, "logging_steps": STEPS, **training}
    return write_recipe(folder, estimated=False, steps=STEPS, training=training)


def contents(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (run / "checkpoints").rglob("*") if path.is_file()}


def status(run: Path) -> str:
    return str(json.loads((run / "run.json").read_text())["status"])


@pytest.mark.parametrize(("failure", "logging"), [*((failure, {}) for failure in FAILURES), (bug, EPOCH)])
def test_a_failure_after_a_checkpoint_keeps_it(
    tmp_path: Path,
    failing: Callable[..., int],
    orpo_here: Callable[..., Any],
    failure: Callable[[Any], None] | None,
    logging: dict[str, object],
) -> None:
    """Also where the run is resumed and fails in its first step."""
    recipe, run = recipe_that_logs_late(tmp_path, **logging), tmp_path / "run"
    assert failing(failure, STEPS - 1, "train", recipe) != 0
    saved = contents(run)
    assert {path.parent.name for path in saved} == {"checkpoint-4", "checkpoint-8"}
    assert status(run) == ("running" if failure is KILL else "failed")
    assert failing(failure or bug, STEPS - 1, "train", recipe, *RESUME) != 0
    assert contents(run) == saved
    assert status(run) == "failed"
    done = orpo_here("train", recipe, *RESUME)
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stderr
    assert status(run) == "finished"


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_before_the_first_checkpoint_is_resumed_from_the_start(
    tmp_path: Path, failing: Callable[..., int], orpo_here: Callable[..., Any], failure: Callable[[Any], None] | None
) -> None:
    recipe, run = recipe_that_logs_late(tmp_path), tmp_path / "run"
    assert failing(failure, SAVE_STEPS - 1, "train", recipe) != 0
    assert status(run) == ("running" if failure is KILL else "failed")
    done = orpo_here("train", recipe, *RESUME)
    assert done.returncode == 0, done.stderr
    assert status(run) == "finished"


def test_a_failure_in_the_first_step_leaves_only_its_log(
    tmp_path: Path, failing: Callable[..., int], orpo_here: Callable[..., Any]
) -> None:
    """The terminal may have lost the message, as with nohup; the same command starts the run."""
    recipe, run = recipe_that_logs_late(tmp_path), tmp_path / "run"
    for _ in range(2):
        assert failing(out_of_memory, 1, "train", recipe) == 3
        assert {path.name for path in run.iterdir()} == {".lock", "logs"}
    log = run / "logs" / "attempt-1.log"
    assert log.read_text().count("MachineError: out of memory") == 2
    assert orpo_here("train", recipe).returncode == 0
    assert log.read_text().count("MachineError: out of memory") == 2
    assert status(run) == "finished"


def test_a_failure_in_the_first_step_after_an_evaluation_keeps_the_run(
    tmp_path: Path, failing: Callable[..., int]
) -> None:
    pairs = (tmp_path / "train.jsonl").as_posix()
    recipe = recipe_that_logs_late(tmp_path, eval_strategy="steps", eval_steps=SAVE_STEPS, eval_on_start=True)
    evaluate = ("--set", f"dataset.eval.path={pairs}", "--set", "dataset.rules.leaked=false")
    assert failing(out_of_memory, 1, "train", recipe, *evaluate) == 3
    assert status(tmp_path / "run") == "failed"
    assert "eval_loss" in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_a_resumed_run_whose_data_is_damaged_keeps_its_checkpoints(
    tmp_path: Path, failing: Callable[..., int], orpo_here: Callable[..., Any]
) -> None:
    recipe, run = recipe_that_logs_late(tmp_path), tmp_path / "run"
    assert failing(bug, STEPS - 1, "train", recipe) != 0
    saved = contents(run)
    (tmp_path / "train.jsonl").write_text("{")
    assert orpo_here("train", recipe, *RESUME).returncode == 4
    assert contents(run) == saved


def test_a_result_without_a_record_is_that_of_a_finished_run(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    """The process was killed, or the disk was full, between the result and the status; there is no checkpoint."""
    recipe, run = write_recipe(tmp_path, estimated=False, steps=3, training={"logging_steps": 2}), tmp_path / "run"
    ended = ForkedCommand(
        tmp_path / "fork", ["train", recipe], stop=StopPoint("orpo_cli.training.train:_record_result")
    )
    ended.wait_for_stop()
    os.kill(ended.process, signal.SIGKILL)
    assert ended.wait() == -signal.SIGKILL
    result = (run / "adapter" / "adapter_model.safetensors").read_bytes()
    assert (status(run), "steps" in json.loads((run / "run.json").read_text())) == ("running", False)
    done = orpo_here("train", recipe, *RESUME, "--json")
    assert done.returncode == 0, done.stderr
    assert (run / "adapter" / "adapter_model.safetensors").read_bytes() == result
    assert json.loads(done.stdout)["steps"] == 3
    assert [each["to_step"] for each in RunDir(run).read_run()["attempts"]] == [3]
    assert json.loads(done.stdout)["final_metrics"]["loss"] > 0
    assert (run / "README.md").is_file()


def test_a_result_of_a_shorter_training_is_not_that_of_the_longer_one(
    tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    recipe, run = write_recipe(tmp_path, estimated=False, steps=1), tmp_path / "run"
    assert orpo_here("train", recipe).returncode == 0
    RunDir(run).write_run(status="running", pid=0, host="elsewhere")
    refused = orpo_here("train", recipe, *RESUME)
    assert refused.returncode == 2
    assert str(run / "adapter") in refused.stderr
    assert (run / "adapter" / "adapter_model.safetensors").is_file()


def run_with(root: Path, *files: str) -> RunDir:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")
    return RunDir(root)


@pytest.mark.parametrize("kept", ["checkpoints/checkpoint-4/trainer_state.json", "adapter/x", "model/x", "merged/x"])
def test_a_run_that_holds_work_is_not_discarded(tmp_path: Path, kept: str) -> None:
    rundir = run_with(tmp_path / "run", kept)
    rundir.write_run(status=FINISHED)
    with pytest.raises(UsageError, match="is not removed"):
        discard_run(rundir)
    assert (rundir.root / kept).is_file()


def test_a_checkpoint_with_half_a_state_is_not_the_last_one(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    """Neither with a manifest, nor without one, as version 0.2.0 wrote them."""
    recipe = write_recipe(tmp_path, estimated=False, steps=4, training={"save_strategy": "steps", "save_steps": 2})
    assert orpo_here("train", recipe).returncode == 0
    rundir = RunDir(tmp_path / "run")
    before, last = (rundir.checkpoints / f"checkpoint-{step}" for step in (2, 4))
    assert rundir.last_checkpoint() == last
    (last / "trainer_state.json").write_text('{"epoch": 1.0, "glob')
    assert rundir.last_checkpoint() == before
    make_run_of_version_0_2_0(rundir)
    assert rundir.last_checkpoint() == before


def test_half_a_line_of_metrics_is_dropped_when_a_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 4}\n{"step": 9}\n{"step": 1')
    restore_metrics(path, 8)
    assert path.read_text() == '{"step": 4}\n'
