"""Out-of-memory errors in a step: detection, and checkpointing of large micro-batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size

# Messages of torch's CPU allocators, with a limit on the address space and without.
_CPU_MESSAGES = ("can't allocate memory", "not enough memory: you tried to allocate")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` reports that host or device memory is used up."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    return should_reduce_batch_size(error) or any(message in str(error) for message in _CPU_MESSAGES)


def enable_checkpointing(model: Any, **options: Any) -> None:
    """Enable activation checkpointing of all layers that support it; ``options``: transformers' ``every_n_layers``."""
    # transformers 5.17 has the old name only
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False}, **options)


class SelectiveCheckpointing:
    """Activation checkpointing (layers keep their inputs alone and are recomputed in backward) for large micro-batches only.

    With gradient_checkpointing in the recipe all micro-batches are checkpointed, and this class does nothing.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.threshold = math.inf  # micro-batches of more tokens are checkpointed
        self.layers: list[Any] = []

    def enable_for(self, tokens: int) -> bool:
        """Checkpoint micro-batches of more than half these tokens. False where they are already, or the model cannot."""
        if tokens > self.threshold or not (self.layers or self._prepare_layers()):
            return False
        self.threshold = tokens // 2
        return True

    def _prepare_layers(self) -> bool:
        if not self.model.supports_gradient_checkpointing or self._checkpointed_layers():
            return False
        enable_checkpointing(self.model)
        self.layers = self._checkpointed_layers()
        self._switch(on=False)
        return True

    def _checkpointed_layers(self) -> list[Any]:
        return [module for module in self.model.modules() if getattr(module, "gradient_checkpointing", False)]

    @contextmanager
    def applied(self, tokens: int) -> Iterator[None]:
        """Context of forward and backward of a micro-batch with this many tokens."""
        self._switch(on=tokens > self.threshold)
        try:
            yield
        finally:
            self._switch(on=False)

    def _switch(self, *, on: bool) -> None:
        for layer in self.layers:
            layer.gradient_checkpointing = on
