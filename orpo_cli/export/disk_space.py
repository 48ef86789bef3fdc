"""Whether the disks hold what is to be exported, asked before the work begins."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from orpo_cli.errors import MachineError
from orpo_cli.export.bitsandbytes_checkpoint import BNB_BITS
from orpo_cli.export.export_request import FormatRequest
from orpo_cli.export.export_source import ExportSource
from orpo_cli.export.gguf import gguf_export
from orpo_cli.verify.resources import TOKENIZER_BYTES, check_disk, type_that_fits


def check_disks(source: ExportSource, orders: list[FormatRequest]) -> None:
    """Raise MachineError where the disks have no room for all that is to be written."""
    parameters = source.facts.parameters
    if source.needs_merge:
        check_disk(source.folder, parameters, source.dtype)
    for order in orders:
        needed = sum(_bytes(each, parameters, source) for each in orders if each.output.parent == order.output.parent)
        _check(order.output, needed + TOKENIZER_BYTES)


def _bytes(order: FormatRequest, parameters: int, source: ExportSource) -> int:
    import torch

    if order.format == "gguf":
        return gguf_export.gguf_bytes(parameters, order.options["gguf_types"], source.dtype)
    return parameters * int(
        getattr(torch, order.options["dtype"]).itemsize
    )  # quantized: what is not needs less than this


def _check(output: Path, needed: int) -> None:
    folder = next(each for each in output.absolute().parents if each.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise MachineError(
            f"{folder}: the export needs {needed / 1e9:.2f} GB of disk, {free / 1e9:.2f} GB are free.",
            remedy="Free some space, or choose another disk with -o.",
        )


def compared_in(source: ExportSource, orders: list[FormatRequest], note: Callable[[str], None]) -> str | None:
    """The type in which logits are compared: float32, that of the weights where only that fits the memory, or None.

    Raises MachineError where a format cannot be made without the whole model in memory.
    """
    try:
        return type_that_fits(source.facts.parameters, source.dtype, note)
    except MachineError:
        if any(order.format in BNB_BITS for order in orders):
            raise
    note("the memory does not hold the model: weights are compared one by one, and logits are not.")
    return None
