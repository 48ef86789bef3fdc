"""Checkpoints of a run: saving one on interruption, retention, and removing what a killed process left.

``PairTrainer._save_checkpoint`` writes them and ``resume`` chooses the one to continue from.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.errors import Interrupted
from orpo_cli.rundir import RunDir

if TYPE_CHECKING:
    from orpo_cli.training.trl_trainer import PairTrainer


def run_steps(trainer: PairTrainer, resume_from: Path | None) -> None:
    """Train, from the checkpoint ``resume_from`` if there is one, and save a checkpoint on interruption."""
    try:
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    except Interrupted:  # during an evaluation, where the Trainer saves nothing
        trainer._save_checkpoint(trainer.model, None)
        raise


def remove_staging(rundir: RunDir) -> None:
    """Remove what a killed process was writing or removing: it never was a checkpoint, or is none any more."""
    for folder in rundir.checkpoints.glob(".checkpoint-*"):
        shutil.rmtree(folder, ignore_errors=True)
