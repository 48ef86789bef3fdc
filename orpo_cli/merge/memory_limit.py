"""The memory of a merge, which is that of files and tensors, not of the model."""

from __future__ import annotations

import re

from orpo_cli.errors import UsageError

BESIDE_A_FILE = 10**9  # bytes of memory that a merge may take beside one and a half files of the base
LIBRARIES = 7 * 10**8  # of them, about what Python and the libraries hold
SIZES = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parsed_size(text: str, option: str) -> int:
    """Bytes of a size such as 5GB or 512MiB. Raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B)", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * SIZES[match[2].upper()]) if match else 0
    if size < 1:
        raise UsageError(f"{option} {text}: not a size.", remedy="Give a number and a unit, such as 5GB or 512MiB.")
    return size


def memory_allowed(largest_file: int, asked: int | None) -> int:
    """Bytes of memory that the process may hold: one and a half files of the base and 1 GB, or what was asked for.

    What a process held before that merges among other things, as a smoke run does, is not held against the merge.
    """
    import psutil

    if asked is not None:
        return asked
    before = max(0, int(psutil.Process().memory_info().rss) - LIBRARIES)
    return before + largest_file * 3 // 2 + BESIDE_A_FILE


def type_within(parameters: int, beside: int, dtype: str, allowed: int) -> str | None:
    """The type in which a model of ``parameters`` can be computed: float32, or ``dtype``; None where neither fits.

    ``beside``: bytes needed beside it; ``allowed``: bytes that the process may hold in all. What the machine has left
    counts, too.
    """
    import psutil  # a dependency of accelerate
    import torch

    held = psutil.Process().memory_info().rss
    room = min(allowed - held, psutil.virtual_memory().available)
    for candidate in dict.fromkeys(("float32", dtype)):
        if parameters * getattr(torch, candidate).itemsize * 1.1 + beside <= room:
            return candidate
    return None
