"""Damaged and missing records of a run: named by each command, and written again on resume."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.file_damage import halve
from support.killed_run import READING, RESUME, Orpo, run_command

from orpo_cli.rundir import RunDir

DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "object": lambda path: path.write_text("{}"),
    "binary": lambda path: path.write_bytes(b"\x80\x00\xff"),
    "half": halve,
    "lost": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["run.json", "plan.json"])
def test_a_damaged_record_is_written_again_on_resume(
    killed: tuple[Path, RunDir], orpo_here: Orpo, name: str, damage: str
) -> None:
    recipe, rundir = killed
    DAMAGES[damage](rundir.root / name)
    done = orpo_here("train", recipe, *RESUME)
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stderr
    assert f"{name}" in done.stderr
    assert "written again" in done.stderr
    assert rundir.read_run()["attempts"][-1]["from_step"] == 4
    assert rundir.status() == "finished"
    assert rundir.read_plan().training["max_steps"] == 6
    assert (rundir.root / f"{name}.damaged").exists() == (damage != "lost")


def test_a_lost_plan_is_not_written_from_another_recipe(killed: tuple[Path, RunDir], orpo_here: Orpo) -> None:
    recipe, rundir = killed
    rundir.plan.write_text("{}")
    refused = orpo_here("train", recipe, *RESUME, "--set", "training.beta=0.9")
    assert refused.returncode == 2
    assert "plan.json" in refused.stderr
    assert "The recipe differs" in refused.stderr
    assert rundir.plan.read_text() == "{}"


def test_damaged_records_of_a_finished_run(killed: tuple[Path, RunDir], orpo_here: Orpo) -> None:
    recipe, rundir = killed
    assert orpo_here("train", recipe, *RESUME).returncode == 0
    rundir.run.write_text("")
    for path in (rundir.evaluation, rundir.samples, rundir.data_report, rundir.pushes):
        path.write_text('{"models": [')
    done = orpo_here("train", recipe, *RESUME)
    assert done.returncode == 0, done.stderr
    assert "nothing to resume" in done.stderr
    assert rundir.status() == "finished"
    assert rundir.read_run()["steps"] == 6
    for name in ("evaluation.json", "samples.json", "data_report.json", "hub.json"):
        assert f"It is now {name}.damaged." in done.stderr
        assert not (rundir.root / name).exists()


@pytest.mark.parametrize("name", ["run.json", "plan.json"])
@pytest.mark.parametrize("command", READING, ids=lambda command: command[0])
def test_commands_name_a_damaged_record(
    killed: tuple[Path, RunDir], orpo_here: Orpo, command: tuple[str, ...], name: str
) -> None:
    _, rundir = killed
    for damage in ("empty", "object", "binary", "half"):
        shutil.copy(rundir.root / name, rundir.root / "saved")
        DAMAGES[damage](rundir.root / name)
        done = run_command(orpo_here, command, rundir)
        assert done.returncode == 2
        assert f"{rundir.root / name}: " in done.stderr or f"{rundir.root / name} is damaged: " in done.stderr
        assert "→ " in done.stderr
        assert "Traceback" not in done.stderr
        shutil.copy(rundir.root / "saved", rundir.root / name)


def test_a_line_of_metrics_that_was_cut_is_repaired_on_resume(killed: tuple[Path, RunDir], orpo_here: Orpo) -> None:
    recipe, rundir = killed
    lines = rundir.metrics.read_text().splitlines(keepends=True)
    lines = [line for line in lines if '"event"' not in line]
    rundir.metrics.write_text("".join(lines[:4]) + "hello\n" + lines[4][:20])
    done = orpo_here("train", recipe, *RESUME)
    assert done.returncode == 0, done.stderr
    assert "lines that are not metrics are kept: 1" in done.stderr
    assert [line["step"] for line in rundir.read_metrics()] == list(range(1, 7))
    assert rundir.metrics.read_text().splitlines()[4] == "hello"


def test_a_missing_card_of_a_finished_run_is_written(killed: tuple[Path, RunDir], orpo_here: Orpo) -> None:
    """The process was killed while it wrote the card."""
    recipe, rundir = killed
    assert orpo_here("train", recipe, *RESUME).returncode == 0
    card = rundir.card.read_text()
    rundir.card.unlink()
    partial = rundir.root / ".README.md.partial"
    partial.write_text(card[:100])
    done = orpo_here("train", recipe, *RESUME)
    assert done.returncode == 0, done.stderr
    assert rundir.card.read_text() == card
    assert not partial.exists()
    assert str(rundir.card) not in orpo_here("train", recipe, *RESUME).stderr
