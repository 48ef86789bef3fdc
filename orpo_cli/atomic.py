"""Atomic directory creation: write to a temporary sibling, then rename. Also atomic writes of text files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orpo_cli.errors import MachineError, UsageError


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield a new empty folder; when the block ends without an error, it replaces ``target``.

    If the block raises or is interrupted, the folder is removed and ``target`` is unchanged. Temporary folders of killed
    processes are removed first. Raises UsageError while another process writes the same target, MachineError if the folder
    cannot be created.
    """
    target = target.absolute()
    _remove_leftovers(target)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    replaced = target.with_name(f"{partial.name}.replaced")
    try:
        try:
            partial.mkdir(parents=True)
        except OSError as error:
            raise MachineError(
                f"cannot write to {target.parent}: {error.strerror or error}", remedy="Choose another folder with -o."
            ) from error
        yield partial
        if target.exists():
            target.rename(replaced)
        partial.rename(target)
    finally:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


def keep_as_unverified(folder: Path, target: Path) -> Path:
    """Rename ``folder`` to ``TARGET.unverified``, or ``TARGET.unverified-2`` and so on if that exists. Returns the new path."""
    target = target.absolute()
    kept, number = target.with_name(f"{target.name}.unverified"), 2
    while kept.exists():
        kept, number = target.with_name(f"{target.name}.unverified-{number}"), number + 1
    folder.rename(kept)
    return kept


def _remove_leftovers(target: Path) -> None:
    for folder in target.parent.glob(f".{target.name}.partial-*"):
        process = folder.name.removeprefix(f".{target.name}.partial-").partition(".")[0]
        if process.isdigit() and int(process) != os.getpid() and _process_is_alive(int(process), folder):
            raise UsageError(
                f"process {process} is writing {target}.",
                remedy=f"Wait for it; if that process is another program, remove {folder}.",
            )
        if folder.name.endswith(".replaced") and not target.exists():
            folder.rename(target)  # the process was killed between the two renames: restore the old folder
        shutil.rmtree(folder, ignore_errors=True)


def _process_is_alive(process: int, folder: Path) -> bool:
    """Whether the process exists and is older than the folder; a younger process reuses the number of a dead one."""
    import psutil  # a dependency of accelerate

    try:
        return bool(psutil.Process(process).create_time() <= folder.stat().st_mtime)
    except (psutil.Error, OSError):
        return False


def atomic_write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``; after an error or a crash, ``path`` has its old content.

    A link stays a link to the file that is written. A device or a pipe (``/dev/null``, ``/dev/stdout``) is written to, never
    replaced.
    """
    special = path.exists() and not path.is_file()
    if not special:
        path = path.resolve()
    partial = path if special else path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if not special:
                os.fsync(file.fileno())
        if not special:
            partial.replace(path)
    except OSError as error:
        if not special:
            partial.unlink(missing_ok=True)
        raise MachineError(
            f"cannot write {path}: {error.strerror or error}", remedy="Free some space or choose another place."
        ) from error
