"""Watchdogs of a running training: they warn, or stop it with a checkpoint, from which it continues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.forked_command import ForkedCommand
from support.watchdog_runs import write_case

from orpo_cli.errors import MachineError
from orpo_cli.rundir import RunDir

CODE = "gradient-clipped"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_case(CODE, tmp_path_factory.mktemp("watchdogs"))


def train(recipe: Path, run: Path, *options: str) -> tuple[int, str]:
    command = ForkedCommand(run.parent / "command", ["train", recipe, "--set", f"output_dir={run}", *options])
    return command.wait(), command.stderr


def events(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("event") == "watchdog"]


def test_by_default_a_watchdog_warns_once_and_the_run_finishes(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, stderr = train(recipe, run)
    assert code == 0, stderr
    assert stderr.count(f"[{CODE}]") == 1
    assert "training.watchdogs.gradient_clipped: warning: grad_norm was above training.max_grad_norm (0.05)" in stderr
    (event,) = events(run)
    assert (event["code"], event["action"]) == (CODE, "advise")
    assert event["message"] in stderr


def test_a_warning_that_the_disk_has_no_space_for_does_not_end_the_run(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: str) -> None:
        raise MachineError("cannot write run.json: the disk is full.")

    monkeypatch.setattr(RunDir, "add_warning", full)
    code, stderr = train(recipe, tmp_path / "run")
    assert code == 0, stderr
    assert len(events(tmp_path / "run")) == 1


def test_off_says_nothing(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, stderr = train(recipe, run, "--set", "training.watchdogs=off")
    assert code == 0, stderr
    assert CODE not in stderr
    assert events(run) == []


def test_stop_saves_a_checkpoint_and_the_run_continues_from_it(recipe: Path, tmp_path: Path) -> None:
    run, stop = tmp_path / "run", ("--set", "training.watchdogs.gradient_clipped=stop")
    code, stderr = train(recipe, run, *stop)
    assert code == 5, stderr
    assert "Traceback" not in stderr
    assert "error: training.watchdogs.gradient_clipped has stopped the run at step" in stderr
    assert f"`orpo explain {CODE}`" in stderr
    (event,) = events(run)
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == record["attempts"][-1]["reason"] == "failed"
    assert "gradient_clipped has stopped the run" in record["error"]
    step = event["step"] + 1
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"checkpoint-{step}"]
    assert record["attempts"][-1]["to_step"] == step
    code, stderr = train(recipe, run, *stop, "--resume", "auto")
    assert code == 0, stderr
    assert CODE not in stderr  # the finding goes on, and was reported
    assert len(events(run)) == 1
    warnings = json.loads((run / "run.json").read_text())["warnings"]
    assert [each["message"] for each in warnings if each["code"] == CODE] == [event["message"]]
