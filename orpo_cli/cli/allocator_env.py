"""The allocators, set so that training does not take half as much memory again as its tensors.

torch asks glibc for aligned blocks, which are cut out of larger ones; the scraps go into a cache of small blocks, stay there, and
keep the freed blocks around them apart, so that none is large enough for the next tensor of the same size. Only the environment
switches that cache off, and only before a program starts: so ``orpo train`` starts itself again, at once and in the same process.

On CUDA torch's allocator keeps freed segments by their size, and packed rows have another length in every micro-batch: segments
that can grow are asked for, as torch's documentation advises for such programs.
"""

from __future__ import annotations

import os
import platform
import sys

GLIBC_VARIABLE, GLIBC_VALUE = "GLIBC_TUNABLES", "glibc.malloc.tcache_count=0"
CUDA_ALLOCATOR_SETTING = ("PYTORCH_ALLOC_CONF", "expandable_segments:True")
OLD_CUDA_VARIABLE = "PYTORCH_CUDA_ALLOC_CONF"


def reexec_with_allocator_env() -> None:
    """Replace this process by the same command with the heap set; does nothing where it is of no use, or is done.

    What the user has set in these variables stays as it is.
    """
    arguments = sys.argv[1:]
    if arguments[:1] != ["train"] or "torch" in sys.modules:
        return
    if OLD_CUDA_VARIABLE not in os.environ and sys.platform.startswith("linux"):
        os.environ.setdefault(*CUDA_ALLOCATOR_SETTING)
    if GLIBC_VARIABLE in os.environ:
        return
    if sys.orig_argv[-len(arguments) :] != arguments:  # another program has called the command line within itself
        return
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, GLIBC_VARIABLE: GLIBC_VALUE})
