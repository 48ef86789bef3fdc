"""What to do when memory runs out in the middle of a step: start the step again, from the same state, in smaller parts."""

from __future__ import annotations

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


def checkpoint_layers(model: Any) -> bool:
    """Let layers be computed again in the backward pass, instead of keeping what it needs. False where that is so already,
    or cannot be.
    """
    if not model.supports_gradient_checkpointing:
        return False
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        return False
    # transformers 5.17 knows the old name only
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    return True
