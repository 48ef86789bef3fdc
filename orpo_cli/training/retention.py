"""Retention of checkpoints (``training.save_total_limit``): removes the oldest ones, and never the last usable one.

The Trainer's own retention counts damaged checkpoints, and may keep one in place of the last that is valid.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from orpo_cli.checkpoint_manifest import CheckpointDamaged, check_files, checkpoint_step, find_checkpoints


def remove_old_checkpoints(parent: Path, step: int, limit: int | None, best: str | None) -> None:
    """Remove the oldest checkpoints until ``limit`` are left. ``step`` is that of the newest one, ``best`` the best one's path.

    Damaged checkpoints, and those of later steps, are neither counted nor removed: the run has not reached these steps again.
    """
    if limit is None or limit <= 0:
        return
    reached = [path for path in find_checkpoints(parent) if (checkpoint_step(path) or 0) <= step]
    usable = [path for path in reached if _is_usable(path)]
    newest_is_usable = bool(usable) and usable[-1] == reached[-1]  # it was written a moment ago
    counted = [path for path in reached if _is_intact(path, contents=bool(usable) and not newest_is_usable)]
    protected = {*counted[-1:], *(path for path in counted if best is not None and path.name == Path(best).name)}
    protected.update([path for path in counted if path in usable][-1:])
    removable = [path for path in counted if path not in protected]
    for path in removable[: max(0, len(counted) - max(limit, len(protected)))]:
        _remove(path)


def keep_only(best: Path) -> None:
    """Remove all checkpoints except the best one and damaged ones, at the end of a training.

    If the best one is damaged or lost, all are kept. If it has weights only, the newest one to resume from is kept as well.
    """
    if not _is_intact(best, contents=True):
        return
    found = find_checkpoints(best.parent)
    kept = {best.name}
    if not _is_usable(best):
        kept.update([path.name for path in found if _is_usable(path) and _is_intact(path, contents=True)][-1:])
    for path in found:
        if path.name not in kept and _is_intact(path):
            _remove(path)


def _remove(checkpoint: Path) -> None:
    removed = checkpoint.with_name(f".{checkpoint.name}.removed")  # not half a checkpoint, if the process is killed
    checkpoint.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def _is_intact(checkpoint: Path, *, contents: bool = False) -> bool:
    """Whether a checkpoint is as it was written. Without ``contents`` by sizes: reading all files takes as long as a save."""
    try:
        check_files(checkpoint, contents=contents)
    except CheckpointDamaged:
        return False
    return True


def _is_usable(checkpoint: Path) -> bool:
    """Whether a run can continue from a checkpoint, by its manifest and the sizes of its files."""
    try:
        manifest = check_files(checkpoint, contents=False)
    except CheckpointDamaged:
        return False
    return manifest is None or (manifest.finite and manifest.resumable)
