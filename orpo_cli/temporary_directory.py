"""Temporary directories that the next command removes where their process was killed."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from orpo_cli.file_lock import FileLock, try_lock

Kind = Literal["pairs", "smoke", "download", "merge"]
LOCK_FILE = ".orpo-temporary"  # no other directory has it: a run in $TMPDIR has a file .lock, and may have any name
_NAME = re.compile(r"orpo-(?:pairs|smoke|download|merge)-[a-z0-9_]{8}")  # as ``mkdtemp`` makes them


class TemporaryDirectory:
    """Directory in ``$TMPDIR`` with a lock that shows that its process is alive. Raises OSError where it cannot be created."""

    def __init__(self, kind: Kind) -> None:
        remove_dead_directories()
        lock = None
        while lock is None:
            self.path = Path(tempfile.mkdtemp(prefix=f"orpo-{kind}-"))
            with suppress(FileNotFoundError):  # another process took it for a dead one before it was locked
                lock = try_lock(self.path / LOCK_FILE)
        self._lock: FileLock = lock

    def remove(self) -> None:
        """Remove the directory with its files."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()

    def keep(self) -> None:
        """Leave the directory to the user."""
        self._lock.release()


@contextmanager
def temporary_directory(kind: Kind) -> Iterator[Path]:
    """Context of a temporary directory."""
    directory = TemporaryDirectory(kind)
    try:
        yield directory.path
    finally:
        directory.remove()


def remove_dead_directories() -> None:
    """Remove the temporary directories of killed processes of this user."""
    with suppress(OSError):
        for path in Path(tempfile.gettempdir()).iterdir():
            if _NAME.fullmatch(path.name) and _is_own(path) and (path / LOCK_FILE).is_file():
                lock = try_lock(path / LOCK_FILE)
                if lock is not None and lock.protects:
                    shutil.rmtree(path, ignore_errors=True)
                if lock is not None:
                    lock.close()


def _is_own(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.geteuid()
