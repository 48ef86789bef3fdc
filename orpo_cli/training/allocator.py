"""Memory allocator of the C library (glibc): settings for training on a CPU."""

from __future__ import annotations

import ctypes
import platform
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import repeat

M_MXFAST, M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = 1, -1, -4, -8  # of glibc's malloc.h
TRIM_NEVER = -1  # for M_TRIM_THRESHOLD; see mallopt(3)
# Requests of this many bytes take chunks of 32 and 48 bytes, the sizes of most remainders. Twice this number takes 5 MB.
SMALL_REQUESTS, RESERVED_CHUNKS = (24, 40), 30_000
MAX_ARENAS = 64  # that other threads may have made


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory instead of returning it to the kernel. Returns whether the setting took effect.

    By default each operation of a step maps its blocks above a few megabytes again and the kernel zeroes their pages: a
    fifth of a step's time on a CPU. The peak stays near the memory in use only if small free blocks are merged with their
    neighbours, so fast bins are off: ``M_MXFAST`` here, and ``cli.reexec`` at the start of the process for the rest.
    """
    if not _is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, TRIM_NEVER), (M_MXFAST, 0))
    return bool(min(mallopt(name, value) for name, value in settings))


@cache
def reserve_small_chunks() -> bool:
    """Reserve free chunks for small requests, so that the memory of a freed tensor can be used for the next one of its size.

    torch requests memory at multiples of 64 bytes. To find such an address, glibc looks for a free chunk with 96 bytes more
    than the tensor needs, and frees the remainders before and after the tensor. A freed tensor is large enough for the next
    one only together with these remainders. Small requests take them, unless other free chunks have the same size: then
    the activations of a step take a third more memory. Call it once, after ``keep_freed_memory`` and before the first step.
    Returns whether the C library is glibc.
    """
    if not _is_glibc():
        return False
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes, library.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
    for size in SMALL_REQUESTS:
        chunks = list(map(library.malloc, repeat(size, 2 * RESERVED_CHUNKS)))
        deque(map(library.free, chunks[::2]), 0)  # the others keep the freed chunks from being merged
    return True


def thread_of_main_arena() -> ThreadPoolExecutor:
    """An executor with one thread, which allocates in the arena of the main thread where the C library is glibc.

    By default glibc gives a thread an arena of its own, and what one thread has freed is not used for the tensors of another one:
    steps of one and of two threads in turn take a third more memory. Once there may be no more arenas, glibc gives new
    threads those that exist, in turn. Threads that are started later in this process share arenas, too.
    """
    if not _is_glibc():
        return ThreadPoolExecutor(1)
    ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
    others: list[ThreadPoolExecutor] = []  # they keep their arenas until the one is found
    try:
        while not (executor := ThreadPoolExecutor(1)).submit(_allocates_in_main_arena).result():
            others.append(executor)
            if len(others) == MAX_ARENAS:
                return others.pop()
        return executor
    finally:
        for each in others:
            each.shutdown()


def _allocates_in_main_arena() -> bool:
    """Whether a block of this thread lies below the end of the heap; other arenas are mapped far above it."""
    library = ctypes.CDLL(None)
    library.malloc.restype = library.sbrk.restype = ctypes.c_void_p
    library.sbrk.argtypes = [ctypes.c_ssize_t]
    library.malloc.argtypes, library.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
    block = library.malloc(1 << 16)
    library.free(block)
    return bool(block < library.sbrk(0))


def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
