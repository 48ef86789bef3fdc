"""Whether disk and memory hold a model, asked before the work begins."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from orpo_cli.errors import MachineError

TOKENIZER_BYTES = 64 * 2**20  # the largest tokenizers take half of it


def check_disk(output: Path, parameters: int, dtype: str) -> None:
    """Raise MachineError where the disk of ``output`` has no room for so many weights of ``dtype``."""
    import torch

    check_disk_for(output, parameters * getattr(torch, dtype).itemsize)


def check_disk_for(output: Path, size: int) -> None:
    """Raise MachineError where the disk of ``output`` has no room for ``size`` bytes of weights and a tokenizer."""
    needed = size + TOKENIZER_BYTES
    folder = next(each for each in output.absolute().parents if each.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise MachineError(
            f"{folder}: the model needs {needed / 1e9:.2f} GB of disk, {free / 1e9:.2f} GB are free.",
            remedy="Free some space, or choose another disk with -o.",
        )


def type_that_fits(parameters: int, dtype: str, note: Callable[[str], None]) -> str:
    """The type to compute in: float32, or ``dtype`` where only that fits; MachineError where neither does."""
    import psutil  # a dependency of accelerate
    import torch

    available = psutil.virtual_memory().available
    for candidate in ("float32", dtype):
        needed = parameters * getattr(torch, candidate).itemsize * 1.1
        if needed <= available:
            if candidate != "float32":
                note(f"the memory does not hold the model in float32: merging and comparing in {dtype}.")
            return candidate
    raise MachineError(
        f"this takes {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available.",
        remedy="Use a machine with more memory.",
    )
