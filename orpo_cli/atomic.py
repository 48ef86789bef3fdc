"""Atomic directory creation: write to a temporary sibling, then rename. Also atomic writes of text files."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orpo_cli.errors import MachineError, UsageError
from orpo_cli.file_lock import FileLock, lock_owner, try_lock
from orpo_cli.os_errors import explain_os_error, explain_write_errors

_LEFTOVER = re.compile(r"\.(.+)\.partial-(?:\d+(?:\.replaced)?|lock)")  # of the target with this name
NO_SPACE_REMEDY = "Choose another place, or free some space."


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield a new empty folder; when the block ends without an error, it replaces ``target``. A link stays a link to it.

    If the block raises or is interrupted, the folder is removed and ``target`` is unchanged. Temporary folders of killed
    processes are removed first. Raises UsageError while another process writes the same target, MachineError if the folder
    cannot be created or the disk becomes full in the block.
    """
    target = _folder_of(target)
    lock = _lock(target)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    replaced = target.with_name(f"{partial.name}.replaced")
    try:
        _remove_leftovers(target, lock)
        with explain_write_errors(target, NO_SPACE_REMEDY):
            partial.mkdir()
            yield partial
            if target.exists():
                target.rename(replaced)
            partial.rename(target)
    finally:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        lock.release()


def _folder_of(target: Path) -> Path:
    return target.resolve() if target.is_symlink() else target.absolute()


def _lock_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial-lock")


def _lock(target: Path) -> FileLock:
    path, remedy = _lock_path(target), "Choose another folder with -o."
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = try_lock(path)
    except OSError as error:
        message = f"cannot write to {target.parent}"
        raise explain_os_error(error, message, remedy) or MachineError(
            f"{message}: {error.strerror or error}.", remedy=remedy
        ) from error
    if lock is None:
        raise UsageError(f"{lock_owner(path)} is writing {target}.", remedy="Wait for it, or choose another folder.")
    return lock


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing in ``folder`` with ``atomic_directory``; a living one holds a lock."""
    names = (
        {match[1] for path in folder.iterdir() if (match := _LEFTOVER.fullmatch(path.name))} if folder.is_dir() else ()
    )
    for name in sorted(names):
        try:
            lock = try_lock(_lock_path(folder / name))
        except OSError:  # a folder that may not be written
            return
        if lock is not None:
            _remove_leftovers(folder / name, lock)
            lock.release()


def _remove_leftovers(target: Path, lock: FileLock) -> None:
    """Remove the temporary folders of ``target``. Without a lock that protects, their processes may be alive."""
    if not lock.protects:
        return
    for folder in target.parent.iterdir():
        if folder.name.startswith(f".{target.name}.partial-") and folder.is_dir():
            if folder.name.endswith(".replaced") and not target.exists():
                folder.rename(target)  # the process was killed between the two renames: restore the old folder
            shutil.rmtree(folder, ignore_errors=True)


def keep_as_unverified(folder: Path, target: Path) -> Path:
    """Rename ``folder`` to ``TARGET.unverified``, or ``TARGET.unverified-2`` and so on if that exists. Returns the new path."""
    target = _folder_of(target)
    kept = unused_name(target.with_name(f"{target.name}.unverified"))
    folder.rename(kept)
    return kept


def remove_partial_files(path: Path) -> None:
    """Remove what killed processes were writing to ``path`` with ``atomic_write_text``; a living one holds a lock."""
    name = re.compile(rf"\.{re.escape(path.name)}\.partial-\d+-[0-9a-f]{{8}}")
    with suppress(OSError):  # a folder or a file that this user may not change
        for partial in path.parent.iterdir():
            if name.fullmatch(partial.name) and partial.is_file() and not partial.is_symlink():
                lock = try_lock(partial)
                if lock is not None and lock.protects:
                    lock.release()
                elif lock is not None:
                    lock.close()


def unused_name(path: Path) -> Path:
    """``path``, or if it exists ``path-2`` and so on."""
    free, number = path, 2
    while free.exists():
        free, number = path.with_name(f"{path.name}-{number}"), number + 1
    return free


def atomic_write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``; after an error or a crash, ``path`` has its old content.

    A link stays a link to the file that is written. A device or a pipe (``/dev/null``, ``/dev/stdout``) is written to, never
    replaced.
    """
    try:
        if path.exists() and not path.is_file():
            _write(path, text)
        else:
            _replace(path.resolve(), text)
    except OSError as error:
        message = f"cannot write {path}"
        raise explain_os_error(error, message, NO_SPACE_REMEDY) or MachineError(
            f"{message}: {error.strerror or error}.", remedy=NO_SPACE_REMEDY
        ) from error


def _replace(path: Path, text: str) -> None:
    remove_partial_files(path)
    lock = None
    while lock is None:  # another process took the file for one of a dead process before it was locked, and removes it
        # a new name for each write: two processes may write the same file at the same time
        partial = path.with_name(f".{path.name}.partial-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        lock = try_lock(partial)
    try:
        _write(partial, text)
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        lock.close()


def _write(path: Path, text: str) -> None:
    # a file name that is no text becomes an escape, which JSON reads back
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        if path.is_file():
            os.fsync(file.fileno())
