"""Opens of files, counted by the kernel (inotify), so that those of libraries in C++ and Rust count, too."""

from __future__ import annotations

import ctypes
import os
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IN_OPEN, IN_CLOSE = 0x20, 0x18  # equal events in a row are merged: an open and a close are not
HEADER = struct.Struct("iIII")  # watch, mask, cookie, length of the name


@contextmanager
def count_opens(*folders: Path) -> Iterator[Counter[str]]:
    """Context whose result has the opens of each file of these folders, as ``folder/file``, when it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    watches = {
        libc.inotify_add_watch(descriptor, os.fsencode(folder), IN_OPEN | IN_CLOSE): folder.name for folder in folders
    }
    assert descriptor >= 0
    assert min(watches) >= 0
    counted: Counter[str] = Counter()
    try:
        yield counted
        for watch, mask, name in _events(descriptor):
            if mask & IN_OPEN and name:
                counted[f"{watches[watch]}/{name}"] += 1
    finally:
        os.close(descriptor)


def _events(descriptor: int) -> Iterator[tuple[int, int, str]]:
    while True:
        try:
            events = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return
        while events:
            watch, mask, _, length = HEADER.unpack_from(events)
            yield watch, mask, events[HEADER.size : HEADER.size + length].rstrip(b"\0").decode()
            events = events[HEADER.size + length :]
