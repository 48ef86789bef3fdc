"""The run directory reads back what it writes, and an absent file as empty."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.tiny_run import make_plan

from orpo_cli.rundir import RunDir, write_record
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
    run.metrics.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert run.read_metrics() == [{"step": 1}, {"step": 2}]


def test_the_composed_recipe_is_preferred(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.read_recipe() == ""
    run.recipe.write_text("extends: base\n")
    assert run.read_recipe() == "extends: base"
    run.composed.write_text("model: {}\n")
    assert run.read_recipe() == "model: {}"


@pytest.mark.parametrize("content", ["", "{}", '{"status": ', None])
def test_a_record_that_is_damaged_during_the_training_is_written_again(tmp_path: Path, content: str | None) -> None:
    with RunDir.create(make_plan(tmp_path / "run", "x"), "model: {}\n") as run:
        run.write_run(orpo_cli="1")
        if content is None:
            run.run.unlink()
        else:
            run.run.write_text(content)
        run.end_attempt("finished", to_step=3, steps=3)
    record = run.read_run()
    assert (record["status"], record["orpo_cli"], record["steps"]) == ("finished", "1", 3)
    assert [(each["reason"], each["to_step"]) for each in record["attempts"]] == [("finished", 3)]


def test_an_error_is_not_replaced_by_one_of_recording_it(tmp_path: Path) -> None:
    """The run directory was removed, or run.json is damaged."""
    with RunDir.create(make_plan(tmp_path / "run", "x"), "model: {}\n") as run:
        shutil.rmtree(run.root)
        with pytest.raises(ZeroDivisionError), ending_attempt_on_error(run):
            raise ZeroDivisionError
    damaged = RunDir(tmp_path / "damaged")
    damaged.root.mkdir()
    damaged.run.write_text("{")
    with pytest.raises(ZeroDivisionError), recording_interruption(damaged):
        raise ZeroDivisionError
