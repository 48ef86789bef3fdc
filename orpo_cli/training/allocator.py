"""The C library's allocator, set for training on a CPU."""

from __future__ import annotations

import ctypes
import platform

M_MXFAST, M_TRIM_THRESHOLD, M_MMAP_MAX = 1, -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let glibc keep what tensors free instead of giving it back to the kernel. Returns whether it could be set.

    By default every block above a few megabytes is mapped anew and zeroed page by page at each operation of a step; of
    a step's time on a CPU that was a fifth. The peak of the memory stays near what lives at once only where small blocks
    are not kept apart from their neighbours: ``M_MXFAST`` says so here, and ``cli.heap`` beforehand for the rest.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_MXFAST, 0))
    return bool(min(mallopt(name, value) for name, value in settings))
