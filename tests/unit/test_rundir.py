"""The run directory reads back what it writes, and an absent file as empty."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support.tiny_run import RECIPE, make_plan

from orpo_cli.run_creation import create_run
from orpo_cli.run_records import write_record
from orpo_cli.run_status import abandon_attempt, begin_attempt, end_attempt, fail_attempt, write_last_step
from orpo_cli.rundir import RunDir
from orpo_cli.workflows.attempt_end import ending_attempt_on_error, recording_interruption


def test_records_are_read_as_they_were_written_and_are_empty_before(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    records = [
        (run.read_data_report, run.data_report),
        (run.read_evaluation, run.evaluation),
        (run.read_samples, run.samples),
        (run.read_pushes, run.pushes),
    ]
    for read, path in records:
        assert read() == {}
        write_record(path, {"file": path.name, "text": "größer"})
        assert read() == {"file": path.name, "text": "größer"}
        assert "größer" in path.read_text(encoding="utf-8")


def test_an_incomplete_last_line_of_the_metrics_is_skipped(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.read_metrics() == []
    run.metrics.write_text('{"step": 1}\n{"step": 2}\n{"kind": "event", "step": 2}\n{"st')
    assert run.read_metrics() == [{"step": 1}, {"step": 2}]


def test_the_composed_recipe_of_an_old_run_is_preferred(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.read_recipe() == ""
    run.recipe.write_text("extends: base\n")
    assert run.read_recipe() == "extends: base"
    run.composed.write_text("model: {}\n")
    assert run.read_recipe() == "model: {}"


@pytest.mark.parametrize("content", ["", "{}", '{"status": ', None])
def test_a_record_that_is_damaged_during_the_training_is_written_again(tmp_path: Path, content: str | None) -> None:
    with create_run(make_plan(tmp_path / "run", "x"), RECIPE) as run:
        run.write_run(orpo_cli="1")
        if content is None:
            run.run.unlink()
        else:
            run.run.write_text(content)
        end_attempt(run, "finished", to_step=3, steps=3)
    record = run.read_run()
    assert (record["status"], record["orpo_cli"], record["steps"]) == ("finished", "1", 3)
    assert [(each["reason"], each["to_step"]) for each in record["attempts"]] == [("finished", 3)]


def end_nothing(run: RunDir) -> None:
    """Leave the attempt as a process does that is killed."""


def train_to_6(run: RunDir) -> None:
    """Begin the steps, which resets the metrics to the checkpoint, and log step 6."""
    run.metrics.write_text('{"step": 4}\n')
    write_last_step(run, 4)
    run.metrics.write_text('{"step": 4}\n{"step": 6}\n')


@pytest.mark.parametrize(
    ("train", "end", "reason", "to_step"),
    [
        (end_nothing, end_nothing, "killed", 4),
        (train_to_6, end_nothing, "killed", 6),
        (end_nothing, lambda run: abandon_attempt(run, "interrupted", "SIGTERM"), "interrupted", 4),
        (train_to_6, lambda run: (write_last_step(run, 7), abandon_attempt(run, "interrupted", "save_before")), "interrupted", 7),
        (end_nothing, lambda run: fail_attempt(run, OSError()), "failed", 4),
        (train_to_6, lambda run: end_attempt(run, "failed", to_step=7), "failed", 7),
    ],
)  # fmt: skip
def test_an_attempt_claims_only_steps_that_it_trained(
    tmp_path: Path, train: Any, end: Any, reason: str, to_step: int
) -> None:
    """It goes back to step 4 (`--resume PATH`) of a run that was killed after step 8 and a checkpoint of it."""
    with create_run(make_plan(tmp_path / "run", "x"), RECIPE) as run:
        write_last_step(run, 0)
        run.metrics.write_text('{"step": 7}\n{"step": 8}\n')
        (run.checkpoints / "checkpoint-8").mkdir()
    for act in (train, end), ():
        run = RunDir(tmp_path / "run")
        begin_attempt(run, from_step=4, versions={})
        for each in act:
            each(run)
    found = [(each["reason"], each["from_step"], each["to_step"]) for each in run.read_run()["attempts"]]
    assert found == [("killed", 0, 8), (reason, 4, to_step), (None, 4, None)]


def test_an_error_is_not_replaced_by_one_of_recording_it(tmp_path: Path) -> None:
    """The run directory was removed, or run.json is damaged."""
    with create_run(make_plan(tmp_path / "run", "x"), RECIPE) as run:
        shutil.rmtree(run.root)
        with pytest.raises(ZeroDivisionError), ending_attempt_on_error(run):
            raise ZeroDivisionError
    damaged = RunDir(tmp_path / "damaged")
    damaged.root.mkdir()
    damaged.run.write_text("{")
    with pytest.raises(ZeroDivisionError), recording_interruption(damaged):
        raise ZeroDivisionError
