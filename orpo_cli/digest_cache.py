"""Digest cache: the digest of a large file with the state of the file, so that an unchanged file is not read at every start.

A file is unchanged where its device, inode, size and both times of its last change are those of the record. Programs can set the
time of the content (mtime) but not that of the inode (ctime), which every change of either sets. A record is made only where the
file was last changed a while before it was read, since two changes within one tick of the clock have the same times. It is valid
until the system is booted again. Small files are always read.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from orpo_cli.json_cache import read_cached, write_cached

MIN_BYTES = 64_000_000  # smaller files are read in less than 0.1 s
SETTLED_SECONDS = 60  # longer than a page of a mapped file can be changed without a new time (30 s on Linux)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SECOND = 1_000_000_000  # ns


def remembered_digest(path: Path, digest: Callable[[Path], str]) -> str:
    """``digest(path)``, or what it was for the same content of a large file. Raises the errors of ``digest``."""
    state, now = _state(path), time.time_ns()
    if state is None or state["size"] < MIN_BYTES:
        return digest(path)
    key = {"digest": digest.__name__, "path": str(path.absolute()), **state}
    known = read_cached("digests", key)
    if known is not None:
        return str(known)
    found = digest(path)
    if _is_settled(state, now) and _state(path) == state:
        write_cached("digests", key, found)
    return found


def _state(path: Path) -> dict[str, int] | None:
    """What changes with every change of the file; None where it cannot be told, so that reading it gives the error."""
    try:
        with path.open("rb") as file:  # a network file system looks for changes when a file is opened
            found = os.fstat(file.fileno())
        boot = int(hashlib.sha256(_BOOT_ID.read_bytes()).hexdigest()[:12], 16) if _BOOT_ID.exists() else 0
    except OSError:
        return None
    return {
        "device": found.st_dev, "inode": found.st_ino, "size": found.st_size, "mtime": found.st_mtime_ns,
        "ctime": found.st_ctime_ns, "boot": boot,
    }  # fmt: skip


def _is_settled(state: dict[str, int], now: int) -> bool:
    """Whether a change after ``now`` (ns) would give the file other times, which are finer than a second."""
    times = (state["mtime"], state["ctime"])
    return max(times) < now - SETTLED_SECONDS * _SECOND and state["ctime"] % _SECOND != 0
