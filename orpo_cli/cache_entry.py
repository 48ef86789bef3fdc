"""Cache entries: directories that are written atomically, and verified with size and digest of each file when they are used.

A process that dies, a full disk or a damaged disk may leave anything in a cache. An entry that is not exactly what was written
is written again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from orpo_cli.atomic import atomic_directory, remove_leftovers
from orpo_cli.digest_cache import remembered_digest
from orpo_cli.digests import file_xxh3
from orpo_cli.file_lock import FileLock, try_lock

MANIFEST = "manifest.json"
_POLL_SECONDS = 0.1

Note = Callable[[str], None]


def cached_entry(entry: Path, create: Callable[[Path], None], note: Note, *, what: str) -> bool:
    """Ensure that ``entry`` is complete and undamaged. True if it was, False if ``create(folder)`` wrote it.

    ``what``: what ``create`` does (``converts x.gguf``), for processes that wait for the one that does it. Raises OSError
    where the cache cannot be written, and the errors of ``create``.
    """
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock = _wait_for_lock(
            entry.with_name(f"{entry.name}.lock"), lambda: note(f"waiting for another process that {what}")
        )
    except OSError:
        if entry.is_dir() and find_damage(entry) is None:  # a shared cache that this user may only read
            return True
        raise
    try:
        with suppress(OSError):
            os.utime(entry)  # before it is read: another process removes entries that are not used for long
        if entry.exists():
            damage = find_damage(entry)
            if damage is None:
                return True
            note(f"{entry} is damaged ({damage}): it is written again")
        remove_leftovers(entry.parent)
        with atomic_directory(entry) as folder:
            create(folder)
            _write_manifest(folder)
        return False
    finally:
        lock.release()


def _wait_for_lock(path: Path, note_wait: Callable[[], None]) -> FileLock:
    if (lock := try_lock(path)) is None:
        note_wait()
        while (lock := try_lock(path)) is None:
            time.sleep(_POLL_SECONDS)
    return lock


def find_damage(entry: Path) -> str | None:
    """What is wrong with an entry, for a message; None where its files are as they were written. Other files may be added to it."""
    try:
        recorded = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (OSError, ValueError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    if not isinstance(recorded, dict) or not recorded:
        return f"{MANIFEST} lists no files"
    for name, written in recorded.items():
        try:
            if [(entry / name).stat().st_size, remembered_digest(entry / name, file_xxh3)] != written:
                return f"{name} has changed"
        except FileNotFoundError:
            return f"{name} is missing"
        except (OSError, ValueError) as error:
            return f"{name} cannot be read: {error}"
    return None


def _write_manifest(folder: Path) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): [path.stat().st_size, file_xxh3(path)] for path in paths}
    (folder / MANIFEST).write_text(json.dumps(files), encoding="utf-8")
