"""Checkpoints of a run: removing what a killed process left.

``PairTrainer._save_checkpoint`` writes them and ``resume`` chooses the one to continue from.
"""

from __future__ import annotations

import shutil

from orpo_cli.rundir import RunDir


def remove_staging(rundir: RunDir) -> None:
    """Remove what a killed process was writing or removing: it never was a checkpoint, or is none any more."""
    for folder in rundir.checkpoints.glob(".checkpoint-*"):
        shutil.rmtree(folder, ignore_errors=True)
