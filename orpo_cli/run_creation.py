"""Creation of a run directory: other processes see it complete and locked, or not at all."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from orpo_cli.errors import MachineError, UsageError
from orpo_cli.run_lock import LOCK_FILE, RunLock, live_owner

SIBLING_PREFIX = ".orpo-new-"  # not the name of the run, because that may be as long as a file name can be
ANOTHER_DIRECTORY = "Use another directory: --set output_dir=DIR."


def check_output_dir(root: Path) -> None:
    """Raise UsageError where a run can never be in ``root``: a file, a link to nothing. MachineError: a name that is too long."""
    try:
        is_link, exists = root.is_symlink(), root.exists()
        nearest = next(path for path in (root, *root.parents) if path.exists())
    except OSError as error:  # a name that is too long, a parent that cannot be read
        raise MachineError(f"output_dir {root}: {error.strerror or error}.", remedy=ANOTHER_DIRECTORY) from error
    if not nearest.is_dir():
        where = "" if exists else f"cannot be created: {nearest} "
        raise UsageError(f"output_dir {root} {where}is a file.", remedy=ANOTHER_DIRECTORY)
    if is_link and not exists:
        raise UsageError(
            f"output_dir {root} is a link to {root.readlink()}, which does not exist.",
            remedy=f"Create that directory, or: {ANOTHER_DIRECTORY}",
        )


def create_locked(root: Path, write: Callable[[Path], None], note: Callable[[str], None]) -> RunLock:
    """Create ``root`` with the files that ``write`` writes into a directory, and return its lock.

    An absent directory appears with all files, by one rename. A directory that exists is filled in place, under its lock,
    because it may be a mount point or a link; ``write`` writes the file that makes it a run last. Raises OSError where that
    cannot be done, also where another process creates it at the same time. Messages name ``root``, never the hidden folder.
    """
    if root.is_dir():
        lock = RunLock.acquire(root, note)
        try:
            write(root)
        except BaseException:
            lock.release()
            raise
        return lock
    missing = list(takewhile(lambda path: not path.exists(), root.parents))
    for parent in reversed(missing):  # not mkdir(parents=True), which fails for a thousand folders in each other
        parent.mkdir(exist_ok=True)
    _remove_dead_siblings(root.parent)

    def named(text: str) -> str:
        return re.sub(rf"{re.escape(SIBLING_PREFIX)}[0-9a-f]+", lambda _: root.name, text)

    sibling, lock = _new_sibling(root.parent, lambda text: note(named(text)))
    try:
        write(sibling)
        sibling.rename(root)
    except BaseException as error:
        shutil.rmtree(sibling, ignore_errors=True)
        lock.release()
        if isinstance(error, MachineError):
            raise MachineError(named(error.message), remedy=error.remedy) from error
        raise
    lock.directory = root
    return lock


def _new_sibling(parent: Path, note: Callable[[str], None]) -> tuple[Path, RunLock]:
    while True:
        sibling = parent / f"{SIBLING_PREFIX}{uuid.uuid4().hex[:12]}"
        sibling.mkdir()
        with suppress(FileNotFoundError):  # removed by another process before it was locked
            return sibling, RunLock.acquire(sibling, note)


def _remove_dead_siblings(parent: Path) -> None:
    """Remove what killed processes were creating; a living one holds the lock."""
    for sibling in parent.glob(f"{SIBLING_PREFIX}*"):
        if not (sibling / LOCK_FILE).exists():
            with suppress(OSError):
                os.rmdir(sibling)
        elif live_owner(sibling) is None:
            shutil.rmtree(sibling, ignore_errors=True)
