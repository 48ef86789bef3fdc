"""Retention of checkpoints (``training.save_total_limit``): removes the oldest ones, and never the last one of use.

The Trainer's own retention counts damaged checkpoints, and may keep one in place of the last that is valid.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from orpo_cli.checkpoint_manifest import CheckpointDamaged, check_files, checkpoint_step, find_checkpoints


def remove_old_checkpoints(parent: Path, step: int, limit: int | None, best: str | None) -> None:
    """Remove the oldest checkpoints until ``limit`` are left. ``step`` is that of the newest one, ``best`` the best one's path.

    Damaged checkpoints, and those of later steps, are neither counted nor removed: the run has not come to them again.
    """
    if limit is None or limit <= 0:
        return
    counted = [
        path
        for path in find_checkpoints(parent)
        if (checkpoint_step(path) or 0) <= step and _is_intact(path, contents=False)
    ]
    protected = {*counted[-1:], *(path for path in counted if best is not None and path.name == Path(best).name)}
    last_finite = next((path for path in reversed(counted) if _is_finite(path, newest=path == counted[-1])), None)
    protected |= {last_finite} if last_finite else set()
    removable = [path for path in counted if path not in protected]
    for path in removable[: max(0, len(counted) - max(limit, len(protected)))]:
        removed = path.with_name(f".{path.name}.removed")  # not half a checkpoint, if the process is killed
        path.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)


def _is_intact(checkpoint: Path, *, contents: bool) -> bool:
    try:
        check_files(checkpoint, contents=contents)
    except CheckpointDamaged:
        return False
    return True


def _is_finite(checkpoint: Path, *, newest: bool) -> bool:
    """Whether a checkpoint is valid and finite. The content of the newest one was written a moment ago."""
    try:
        manifest = check_files(checkpoint, contents=not newest)
    except CheckpointDamaged:
        return False
    return manifest is None or manifest.finite
