"""Resource checks for merge and export: free disk space, and memory to compute a model in."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil  # a dependency of accelerate

from orpo_cli.errors import MachineError
from orpo_cli.machine import available_ram_bytes

TOKENIZER_BYTES = 64 * 2**20  # twice the size of the largest tokenizers
COMPUTE_OVERHEAD = 1.1  # memory of a loaded model, relative to its weights


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


def free_memory(limit: int | None = None) -> int:
    """Bytes of memory that the process can still take. ``limit``: bytes that it may use in total, if the user gave a limit."""
    available = available_ram_bytes()
    if limit is not None:
        available = min(available, limit - int(psutil.Process().memory_info().rss))
    return max(0, available)


def compute_bytes(parameters: int, dtype: str, other_bytes: int = 0) -> int:
    """Bytes of memory to compute a model in ``dtype``. ``other_bytes``: what is needed besides the model."""
    return int(parameters * dtype_bytes(dtype) * COMPUTE_OVERHEAD) + other_bytes


def choose_compute_dtype(parameters: int, dtype: str, *, limit: int | None = None, other_bytes: int = 0) -> str | None:
    """The dtype to compute a model in: float32 if it fits into the free memory, else ``dtype``; None if neither fits."""
    available = free_memory(limit)
    for candidate in dict.fromkeys(("float32", dtype)):
        if compute_bytes(parameters, candidate, other_bytes) <= available:
            return candidate
    return None


def memory_shortage(parameters: int, dtype: str, reason: str) -> MachineError:
    """The error of work that needs the complete model in memory, in at least ``dtype``."""
    return MachineError(
        f"{reason}, which takes {compute_bytes(parameters, dtype) / 1e9:.1f} GB of memory; "
        f"{available_ram_bytes() / 1e9:.1f} GB are available.",
        remedy="Use a machine with more memory.",
    )
