"""Results that cost little to make are made again in the backward pass, where they would take memory until then.

What a norm or a gate gives, for instance, is kept by the matrix products behind it for their backward pass, though what it is
made of is kept as well. Within ``made_again`` what ``cheap`` gave is not kept; the first to ask for it in the backward pass makes
it anew, by the same function from the same numbers, so not a bit of it differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

# By the storage of the result. A weak reference keeps the address from being given to another one.
_made: ContextVar[dict[int, tuple[StorageWeakRef, _Recipe]] | None] = ContextVar("what can be made again", default=None)


class _Recipe:
    """How a tensor was made, and how many of those that need it have not asked for it yet."""

    def __init__(self, function: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...], version: int) -> None:
        self.function = function
        self.inputs = inputs
        self.version = version  # as it was made: what is changed in place afterwards cannot be made again
        self.waiting = 0
        self.made: torch.Tensor | None = None

    def again(self) -> torch.Tensor:
        """The tensor; it is forgotten when the last of those that wait has it."""
        if self.made is None:
            with torch.no_grad():
                self.made = self.function(*self.inputs)
        made = self.made
        self.waiting -= 1
        if self.waiting <= 0:
            self.made = None
        return made


def cheap(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
    """``function(*inputs)``, which gives a new tensor, the same for the same inputs, and keeps them for its own backward pass."""
    result = function(*inputs)
    made = _made.get()
    if made is not None and result.requires_grad:
        for gone in [place for place, (reference, _) in made.items() if reference.expired()]:  # type: ignore[no-untyped-call]
            del made[gone]  # and with it its inputs, unless a backward pass waits for them
        storage = result.untyped_storage()
        recipe = _Recipe(function, tuple(each.detach() for each in inputs), result._version)
        made[storage._cdata] = StorageWeakRef(storage), recipe  # type: ignore[no-untyped-call]
    return result


@contextmanager
def made_again() -> Iterator[None]:
    """Around a forward pass. Layers that are checkpointed keep nothing in the first place."""
    made: dict[int, tuple[StorageWeakRef, _Recipe]] = {}

    def pack(kept: torch.Tensor) -> Any:
        if kept.layout != torch.strided:
            return kept
        _, recipe = made.get(kept.untyped_storage()._cdata, (None, None))
        if recipe is None or kept._version != recipe.version:
            return kept
        recipe.waiting += 1
        return recipe, kept.shape, kept.stride(), kept.storage_offset()

    def unpack(kept: Any) -> torch.Tensor:
        if isinstance(kept, torch.Tensor):
            return kept
        recipe, *place = kept
        again: torch.Tensor = recipe.again().as_strided(*place)
        return again

    token = _made.set(made)
    try:
        with saved_tensors_hooks(pack, unpack):
            yield
    finally:
        _made.reset(token)
