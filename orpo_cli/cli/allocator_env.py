"""Allocator settings of `orpo train`: environment variables that reduce memory fragmentation, set by re-executing the process.

glibc: torch allocates aligned blocks, which glibc cuts out of larger ones. The rests go into glibc's thread cache (tcache), stay
there, and separate freed blocks, so that none is large enough for the next tensor of the same size; training then takes about 1.5
times the memory of its tensors. Only an environment variable, read when a process starts, switches this cache off.

CUDA: torch's allocator keeps freed segments by size, and packed rows have a different length in every micro-batch.
Expandable segments avoid this, as the documentation of torch recommends for such programs.
"""

from __future__ import annotations

import os
import platform
import sys

GLIBC_VARIABLE, GLIBC_VALUE = "GLIBC_TUNABLES", "glibc.malloc.tcache_count=0"
CUDA_ALLOCATOR_SETTING = ("PYTORCH_ALLOC_CONF", "expandable_segments:True")
OLD_CUDA_VARIABLE = "PYTORCH_CUDA_ALLOC_CONF"


def reexec_with_allocator_env() -> None:
    """Replace this process by the same command with the allocator variables; do nothing if they are set or have no effect.

    Values that the user has set are kept.
    """
    arguments = sys.argv[1:]
    if arguments[:1] != ["train"] or "torch" in sys.modules:
        return
    if OLD_CUDA_VARIABLE not in os.environ and sys.platform.startswith("linux"):
        os.environ.setdefault(*CUDA_ALLOCATOR_SETTING)
    if GLIBC_VARIABLE in os.environ:
        return
    if sys.orig_argv[-len(arguments) :] != arguments:  # another program calls main() in its own process
        return
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, GLIBC_VARIABLE: GLIBC_VALUE})
