"""Checkpoints of a run: saving one on interruption, and removing incomplete ones.

The Trainer writes them: ``make_trainer`` passes their folder, and ``PairTrainer._save`` leaves out what may have secrets.
``resume`` chooses the one to continue from.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.errors import Interrupted
from orpo_cli.rundir import RunDir, is_complete

if TYPE_CHECKING:
    from orpo_cli.training.trl_trainer import PairTrainer


def run_steps(trainer: PairTrainer, resume_from: Path | None) -> None:
    """Train, from the checkpoint ``resume_from`` if there is one, and save a checkpoint on interruption."""
    try:
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    except Interrupted:  # during an evaluation, where the Trainer saves nothing
        trainer._save_checkpoint(trainer.model, None)
        raise


def remove_incomplete_checkpoints(rundir: RunDir) -> None:
    """Remove checkpoints without their state: they were being written when the run ended, and cannot be resumed."""
    for folder in rundir.checkpoints.glob("checkpoint-*"):
        if not is_complete(folder):
            shutil.rmtree(folder, ignore_errors=True)
