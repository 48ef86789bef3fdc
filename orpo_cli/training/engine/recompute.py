"""Recomputation of cheap tensors in the backward pass: they are not kept between forward and backward.

The matrix product after a norm or a gate saves that result for its backward pass, though its inputs are saved as well.
Inside ``recompute_in_backward`` autograd saves no result of ``recomputable``; the first backward function that needs one
computes it with the same function from the same inputs, so the gradients are bit-identical. It works through torch's
``saved_tensors_hooks``: a saved tensor whose storage is known becomes a reference to its ``_Recomputation``.
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
    """Function and inputs of a tensor, and how many saved references to it have not been unpacked yet."""

    def __init__(self, function: Callable[..., torch.Tensor], inputs: Sequence[Any], version: int) -> None:
        self.function = function
        self.inputs = inputs  # packed
        self.version = version  # autograd's; a tensor that was changed in place afterwards cannot be recomputed
        self.pending = 0
        self.result: torch.Tensor | None = None

    def recompute(self) -> torch.Tensor:
        """The tensor, computed for the first reference and released after the last."""
        if self.result is None:
            with torch.no_grad():
                self.result = self.function(*map(_unpack, self.inputs))
        result = self.result
        self.pending -= 1
        if self.pending <= 0:
            self.result = None
        return result


class _Registry:
    """Recomputable tensors of a forward pass, by the address of their storage."""

    def __init__(self) -> None:
        # A storage's weak reference keeps its address from being reused for another storage.
        self.recomputations: dict[int, tuple[StorageWeakRef, _Recomputation]] = {}
        self.last_cast: tuple[weakref.ref[torch.Tensor], int, torch.Tensor] | None = None

    def register(self, result: torch.Tensor, function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> None:
        """``result`` is what ``function`` returns for ``inputs``, which may be recomputable themselves."""
        expired = [address for address, (reference, _) in self.recomputations.items() if reference.expired()]  # type: ignore[no-untyped-call]
        for address in expired:
            del self.recomputations[address]  # releases its inputs, unless a backward pass still refers to it
        storage = result.untyped_storage()
        recomputation = _Recomputation(function, [self.pack(each.detach()) for each in inputs], result._version)
        self.recomputations[storage._cdata] = StorageWeakRef(storage), recomputation  # type: ignore[no-untyped-call]

    def pack(self, saved: torch.Tensor) -> Any:
        """What autograd keeps in place of ``saved``."""
        if saved.layout != torch.strided:
            return saved
        _, recomputation = self.recomputations.get(saved.untyped_storage()._cdata, (None, None))
        if recomputation is None or saved._version != recomputation.version:
            return saved
        recomputation.pending += 1
        return recomputation, saved.shape, saved.stride(), saved.storage_offset()


def _unpack(saved: Any) -> torch.Tensor:
    if isinstance(saved, torch.Tensor):
        return saved
    recomputation, *view = saved
    tensor: torch.Tensor = recomputation.recompute().as_strided(*view)
    return tensor


_registry: ContextVar[_Registry | None] = ContextVar("recomputable tensors", default=None)


def recomputable(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
    """``function(*inputs)``, not kept for backward. It must be deterministic, return a new tensor, and save its inputs."""
    result = function(*inputs)
    registry = _registry.get()
    if registry is not None and result.requires_grad:
        registry.register(result, function, *inputs)
    return result


def cast_once(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``x`` in another dtype, detached: one copy for consecutive layers with the same input (query, key and value)."""
    registry = _registry.get() if torch.is_grad_enabled() else None
    if x.dtype == dtype or registry is None:
        return x.detach().to(dtype)
    if registry.last_cast is not None:
        source, version, copy = registry.last_cast
        if source() is x and version == x._version and copy.dtype == dtype:
            return copy
    copy = x.detach().to(dtype)
    registry.register(copy, partial(torch.Tensor.to, dtype=dtype), x)
    registry.last_cast = weakref.ref(x), x._version, copy
    return copy


@contextmanager
def recompute_in_backward() -> Iterator[None]:
    """Context of a forward pass. Layers with activation checkpointing save nothing in the first place."""
    registry = _Registry()
    token = _registry.set(registry)
    try:
        with saved_tensors_hooks(registry.pack, _unpack):
            yield
    finally:
        _registry.reset(token)
        registry.last_cast = None
