"""What to do when memory runs out in the middle of a step: start the step again, from the same state, keeping less."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

# What torch's allocators say on a CPU, with a limit on the address space or without.
_WORDS = ("can't allocate memory", "not enough memory: you tried to allocate")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that host or device memory is used up."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    return should_reduce_batch_size(error) or any(words in str(error) for words in _WORDS)


@dataclass(frozen=True)
class RandomState:
    """The random numbers that dropout draws, of the CPU and of the device that trains."""

    device: torch.device
    on_cpu: torch.Tensor
    on_device: torch.Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """The state as it is."""
        module = _with_random_numbers(device)
        return cls(device, torch.get_rng_state(), None if module is None else module.get_rng_state(device))

    def restore(self) -> None:
        """Draw again what was drawn since."""
        torch.set_rng_state(self.on_cpu)
        if self.on_device is not None:
            _with_random_numbers(self.device).set_rng_state(self.on_device, self.device)


def _with_random_numbers(device: torch.device) -> Any:
    return None if device.type == "cpu" else torch.get_device_module(device)


def free_memory() -> None:
    """Give back what a failed step left. Call it after the ``except`` block: the error's frames hold tensors until then."""
    clear_device_cache(garbage_collection=True)


class SelectiveCheckpointing:
    """Lets the layers of a model keep their inputs alone and compute the rest again in the backward pass, for large micro-batches.

    The recipe's own checkpointing is for all of them, and stays so.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.above = math.inf  # tokens of a micro-batch
        self.layers: list[Any] = []

    def enable_above(self, tokens: int) -> bool:
        """Checkpoint micro-batches of more than half these tokens from now on. False where that is so already, or cannot be."""
        if tokens > self.above or not (self.layers or self._prepared()):
            return False
        self.above = tokens // 2
        return True

    def _prepared(self) -> bool:
        if not self.model.supports_gradient_checkpointing or self._checkpointed():
            return False
        # transformers 5.17 knows the old name only
        enable = (
            getattr(self.model, "activation_checkpointing_enable", None) or self.model.gradient_checkpointing_enable
        )
        enable({"use_reentrant": False})
        self.layers = self._checkpointed()
        self._switch(on=False)
        return True

    def _checkpointed(self) -> list[Any]:
        return [module for module in self.model.modules() if getattr(module, "gradient_checkpointing", False)]

    @contextmanager
    def around(self, tokens: int) -> Iterator[None]:
        """Forward and backward of a micro-batch with this many tokens."""
        self._switch(on=tokens > self.above)
        try:
            yield
        finally:
            self._switch(on=False)

    def _switch(self, *, on: bool) -> None:
        for layer in self.layers:
            layer.gradient_checkpointing = on
