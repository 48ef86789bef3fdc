"""Environment variables that Python, glibc and torch read when a process starts, set by re-executing the process.

Python: in the C locale with ``PYTHONUTF8=0``, no file with a name beyond ASCII can be opened, so UTF-8 mode is switched on.

glibc, for `orpo train` and `orpo quickstart`: torch allocates aligned blocks, which glibc cuts out of larger ones. The remainders go into glibc's thread cache (tcache), stay
there, and separate freed blocks, so that none is large enough for the next tensor of the same size; training then takes about 1.5
times the memory of its tensors. Only an environment variable, read when a process starts, switches this cache off.

CUDA, for the same commands: torch's allocator keeps freed segments by size, and packed rows have a different length in every micro-batch.
Expandable segments avoid this, as the documentation of torch recommends for such programs.
"""

from __future__ import annotations

import codecs
import os
import platform
import sys

from orpo_cli.interruption import hold_for_exec

GLIBC_VARIABLE, GLIBC_VALUE = "GLIBC_TUNABLES", "glibc.malloc.tcache_count=0"
CUDA_ALLOCATOR_SETTING = ("PYTORCH_ALLOC_CONF", "expandable_segments:True")
OLD_CUDA_VARIABLE = "PYTORCH_CUDA_ALLOC_CONF"
UTF8_VARIABLE = "PYTHONUTF8"


def reexec_with_environment() -> None:
    """Replace this process by the same command with these variables; do nothing if they are set or have no effect.

    Values that the user has set are kept.
    """
    arguments = sys.argv[1:]
    variables = {**_utf8_mode(), **(_allocator_settings() if arguments[:1] in (["train"], ["quickstart"]) else {})}
    if sys.orig_argv[-len(arguments) :] != arguments:  # another program calls main() in its own process
        return
    if variables and "torch" not in sys.modules:
        hold_for_exec()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **variables})


def _utf8_mode() -> dict[str, str]:
    is_ascii = codecs.lookup(sys.getfilesystemencoding()).name == "ascii"
    return {UTF8_VARIABLE: "1"} if is_ascii and os.environ.get(UTF8_VARIABLE) != "1" else {}


def _allocator_settings() -> dict[str, str]:
    """The setting of glibc; that of CUDA is not read before torch is imported, and is set in this process."""
    if "torch" in sys.modules:
        return {}
    if OLD_CUDA_VARIABLE not in os.environ and sys.platform.startswith("linux"):
        os.environ.setdefault(*CUDA_ALLOCATOR_SETTING)
    is_glibc = sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc"
    return {GLIBC_VARIABLE: GLIBC_VALUE} if is_glibc and GLIBC_VARIABLE not in os.environ else {}
