"""Resuming: going back to an earlier checkpoint, completely or not at all, and plans of older versions."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from support.forks import kill_at_each_file_operation
from support.tiny_run import RECIPE, make_plan

from orpo_cli.run_creation import create_run
from orpo_cli.rundir import RunDir
from orpo_cli.training.checkpoint_writer import CheckpointWriter
from orpo_cli.training.resume import CHANGEABLE, _differences, restore_later, set_aside_later

GUIDE = Path(__file__).parents[3] / "docs" / "how-to" / "resume-and-interrupt.md"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run with checkpoints of the steps 2, 4 and 6."""
    with create_run(make_plan(tmp_path / "run", "x"), RECIPE) as run:
        run.metrics.write_text('{"step": 7}\n')
        for step in (2, 4, 6):
            with CheckpointWriter(run.checkpoints, step) as writer:
                (writer.staged / "scheduler.pt").write_text(str(step))
                writer.publish(world_size=1, resumable=True)
    return run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


ALL = ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


def test_a_process_that_is_killed_has_gone_back_or_has_not(run: RunDir) -> None:
    """Killed at each file operation, and the next start, which moves the checkpoints back, at each of its own."""
    kills = restores = 0
    for number in kill_at_each_file_operation(lambda: set_aside_later(run, run.checkpoints / "checkpoint-2")):
        kills = number
        for _ in kill_at_each_file_operation(lambda: restore_later(run)):
            restores += 1
        assert names(run.checkpoints) == ALL
        assert not run.abandoned.exists()
        assert run.metrics.read_text() == '{"step": 7}\n'
    aside = run.abandoned / "attempt-1"
    restore_later(run)
    assert names(run.checkpoints) == ALL[:1]
    assert names(aside / "checkpoints") == ALL[1:]
    assert (aside / "metrics.jsonl").read_text() == '{"step": 7}\n'
    assert names(run.abandoned) == ["attempt-1"]
    assert kills > 5
    assert restores > kills


def test_an_error_moves_the_checkpoints_back(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def rename_with_error(path: Path, target: Path) -> Path:
        if path.name == "checkpoint-6" and ".partial" in str(target):
            raise OSError(28, os.strerror(28))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_with_error)
    with pytest.raises(OSError, match="No space"):
        set_aside_later(run, run.checkpoints / "checkpoint-2")
    assert names(run.checkpoints) == ALL
    assert not run.abandoned.exists()


def test_a_run_of_a_version_without_nll_weight_can_be_resumed(run: RunDir) -> None:
    before = make_plan(run.root, "x")
    assert "nll_weight" not in before.training
    same, other = (
        before.model_copy(update={"training": {**before.training, "nll_weight": each}}) for each in (1.0, 0.5)
    )
    assert _differences(before, same) == {}
    assert list(_differences(before, other)) == ["training.nll_weight"]


@pytest.mark.parametrize("name", CHANGEABLE)
def test_the_guide_names_every_setting_that_may_change(name: str) -> None:
    if name != "device":  # no setting: the plan decides it
        key = name.removeprefix("training.").removesuffix(".")
        assert re.search(rf"`(training\.)?{re.escape(key)}", GUIDE.read_text(encoding="utf-8"))
