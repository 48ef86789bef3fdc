"""Resource checks for merge and export: free disk space, and memory to compute a model in."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil  # a dependency of accelerate

from orpo_cli.errors import MachineError

TOKENIZER_BYTES = 64 * 2**20  # twice the size of the largest tokenizers
COMPUTE_OVERHEAD = 1.1  # memory of a loaded model, relative to its weights
MERGE_WORKING_BYTES = 10**9  # memory that a merge may use besides 1.5 times the largest file of the base
LIBRARY_BYTES = 7 * 10**8  # of these, about what Python and the libraries use


def dtype_bytes(dtype: str) -> int:
    """Bytes per value of a torch dtype."""
    import torch

    return int(getattr(torch, dtype).itemsize)


def check_disk_space(output: Path, weight_bytes: int) -> None:
    """Raise MachineError if the disk of ``output`` has no space for weights of this size and a tokenizer."""
    needed = weight_bytes + TOKENIZER_BYTES
    folder = next(each for each in output.absolute().parents if each.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise MachineError(
            f"{folder}: {needed / 1e9:.2f} GB of disk space are needed, {free / 1e9:.2f} GB are free.",
            remedy="Free some space, or choose another disk with -o.",
        )


def merge_memory_limit(largest_file: int, requested: int | None) -> int:
    """Bytes of memory that a merging process may use: as requested, else 1.5 times the base's largest file and 1 GB.

    Memory that the process used before the merge, as in a smoke run, comes on top.
    """
    if requested is not None:
        return requested
    used_before = max(0, int(psutil.Process().memory_info().rss) - LIBRARY_BYTES)
    return used_before + largest_file * 3 // 2 + MERGE_WORKING_BYTES


def choose_compute_dtype(parameters: int, dtype: str, *, limit: int | None = None, other_bytes: int = 0) -> str | None:
    """The dtype to compute a model in: float32 if it fits into memory, else ``dtype``; None if neither fits.

    ``limit``: bytes that the process may use in total. ``other_bytes``: memory that is needed besides the model.
    """
    available = psutil.virtual_memory().available
    if limit is not None:
        available = min(available, limit - psutil.Process().memory_info().rss)
    for candidate in dict.fromkeys(("float32", dtype)):
        if parameters * dtype_bytes(candidate) * COMPUTE_OVERHEAD + other_bytes <= available:
            return candidate
    return None


def memory_shortage(parameters: int, dtype: str, reason: str) -> MachineError:
    """The error of work that needs the complete model in memory, in at least ``dtype``."""
    needed = parameters * dtype_bytes(dtype) * COMPUTE_OVERHEAD
    return MachineError(
        f"{reason}, which takes {needed / 1e9:.1f} GB of memory; "
        f"{psutil.virtual_memory().available / 1e9:.1f} GB are available.",
        remedy="Use a machine with more memory.",
    )
