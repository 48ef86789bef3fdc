"""Memory allocator of the C library (glibc): settings for training on a CPU."""

from __future__ import annotations

import ctypes
import platform

M_MXFAST, M_TRIM_THRESHOLD, M_MMAP_MAX = 1, -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory instead of returning it to the kernel. Returns whether the setting took effect.

    By default each operation of a step maps its blocks above a few megabytes again and the kernel zeroes their pages: a
    fifth of a step's time on a CPU. The peak stays near the memory in use only if small free blocks are merged with their
    neighbours, so fast bins are off: ``M_MXFAST`` here, and ``cli.reexec`` at the start of the process for the rest.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_MXFAST, 0))
    return bool(min(mallopt(name, value) for name, value in settings))
