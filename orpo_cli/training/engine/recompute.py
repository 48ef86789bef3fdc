"""Results that cost little to make are made again in the backward pass, where they would take memory until then.

What a norm or a gate gives, for instance, is kept by the matrix products behind it for their backward pass, though what it is
made of is kept as well. Within ``recompute_in_backward`` what ``cheap`` gave is not kept; the first to ask for it in the backward pass makes
it anew, by the same function from the same numbers, so not a bit of it differs.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef


class _Recomputation:
    """How a tensor was made, and how many of those that need it have not asked for it yet."""

    def __init__(self, function: Callable[..., torch.Tensor], inputs: Sequence[Any], version: int) -> None:
        self.function = function
        self.inputs = inputs  # packed
        self.version = version  # as it was made: what is changed in place afterwards cannot be made again
        self.waiting = 0
        self.made: torch.Tensor | None = None

    def again(self) -> torch.Tensor:
        """The tensor; it is forgotten when the last of those that wait has it."""
        if self.made is None:
            with torch.no_grad():
                self.made = self.function(*map(_unpack, self.inputs))
        made = self.made
        self.waiting -= 1
        if self.waiting <= 0:
            self.made = None
        return made


class _Made:
    """What can be made again in a forward pass, by the storage of the result."""

    def __init__(self) -> None:
        # A weak reference keeps the address from being given to another one.
        self.recipes: dict[int, tuple[StorageWeakRef, _Recomputation]] = {}
        self.narrowed: tuple[weakref.ref[torch.Tensor], int, torch.Tensor] | None = None

    def remember(self, result: torch.Tensor, function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> None:
        """``result`` is what ``function`` gives for the inputs, which may be made again themselves."""
        for gone in [place for place, (reference, _) in self.recipes.items() if reference.expired()]:  # type: ignore[no-untyped-call]
            del self.recipes[gone]  # and with it its inputs, unless a backward pass waits for them
        storage = result.untyped_storage()
        recipe = _Recomputation(function, [self.pack(each.detach()) for each in inputs], result._version)
        self.recipes[storage._cdata] = StorageWeakRef(storage), recipe  # type: ignore[no-untyped-call]

    def pack(self, kept: torch.Tensor) -> Any:
        """What is kept for the backward pass instead of ``kept``."""
        if kept.layout != torch.strided:
            return kept
        _, recipe = self.recipes.get(kept.untyped_storage()._cdata, (None, None))
        if recipe is None or kept._version != recipe.version:
            return kept
        recipe.waiting += 1
        return recipe, kept.shape, kept.stride(), kept.storage_offset()


def _unpack(kept: Any) -> torch.Tensor:
    if isinstance(kept, torch.Tensor):
        return kept
    recipe, *place = kept
    again: torch.Tensor = recipe.again().as_strided(*place)
    return again


_made: ContextVar[_Made | None] = ContextVar("what can be made again", default=None)


def cheap(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
    """``function(*inputs)``, which gives a new tensor, the same for the same inputs, and keeps them for its own backward pass."""
    result = function(*inputs)
    made = _made.get()
    if made is not None and result.requires_grad:
        made.remember(result, function, *inputs)
    return result


def narrowed(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``x`` in another type, without its gradient: one copy for all layers that ask for it one after the other."""
    made = _made.get() if torch.is_grad_enabled() else None
    if x.dtype == dtype or made is None:
        return x.detach().to(dtype)
    if made.narrowed is not None:
        of, version, copy = made.narrowed
        if of() is x and version == x._version and copy.dtype == dtype:
            return copy
    copy = x.detach().to(dtype)
    made.remember(copy, partial(torch.Tensor.to, dtype=dtype), x)
    made.narrowed = weakref.ref(x), x._version, copy
    return copy


@contextmanager
def recompute_in_backward() -> Iterator[None]:
    """Around a forward pass. Layers that are checkpointed keep nothing in the first place."""
    made = _Made()
    token = _made.set(made)
    try:
        with saved_tensors_hooks(made.pack, _unpack):
            yield
    finally:
        _made.reset(token)
        made.narrowed = None
