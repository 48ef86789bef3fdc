"""A training that a callback ends before its last step: what the run records, and how it is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.tiny import write_recipe
from transformers import TrainerCallback

from orpo_cli import train
from orpo_cli.errors import UsageError
from orpo_cli.report.run_history import read_history
from orpo_cli.report.run_summary import summary_lines


class StopAtStep4(TrainerCallback):
    """Callback that ends the training after step 4."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop."""
        control.should_training_stop = state.global_step == 4


def test_a_run_that_a_callback_ended_says_so_and_continues_from_its_checkpoint(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 4}
    recipe = write_recipe(tmp_path, steps=8, estimated=False, training=saving)
    run = train(recipe, callbacks=[StopAtStep4()])
    assert (run.status, run.record["steps"], run.record["planned_steps"]) == ("finished", 4, 8)
    assert run.record["attempts"][-1]["detail"] == "stopped by a callback at step 4 of 8"
    first, *_ = summary_lines(read_history(run.path))
    assert first.startswith("trained 4 of 8 steps in ")
    assert first.endswith(": stopped by a callback")
    capfd.readouterr()

    same = train(recipe, resume="auto", verbose=True)
    checkpoint = run.path / "checkpoints" / "checkpoint-4"
    assert (same.status, same.record["steps"], len(same.record["attempts"])) == ("finished", 4, 1)
    printed = capfd.readouterr().err
    assert "a callback ended this run at step 4 of 8, and nothing is trained" in printed
    assert f'`resume="{checkpoint}"` trains the other steps' in printed

    continued = train(recipe, resume=checkpoint)
    assert (continued.record["steps"], continued.record["attempts"][-1]["from_step"]) == (8, 4)
    assert continued.record["attempts"][-1]["detail"] is None
    first, *_ = summary_lines(read_history(run.path))
    assert first.startswith("trained 8 steps in ")
    with pytest.raises(UsageError, match="has finished, and would be trained to the same result again"):
        train(recipe, resume=checkpoint)
