"""torch.compile for small element-wise functions between matrix products, on CUDA: one kernel each in forward and backward.

Rotary embedding: transformers has the same function in every architecture's module, under one name
(``apply_rotary_pos_emb(q, k, cos, sin)``, q and k (batch, heads, tokens, head_dim)). It is compiled unchanged, so its
values stay the same.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from orpo_cli.training.out_of_memory import is_out_of_memory

ROTARY_FUNCTION = "apply_rotary_pos_emb"


class RotaryFunction(Protocol):
    """A replacement of a rotary function."""

    function: Callable[..., Any]  # the original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """``function(*args, **kwargs)``."""


class CompiledFunction:
    """``function`` through torch.compile with dynamic shapes; uncompiled where no compiler works (no C compiler, no Triton)."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.compiled = torch.compile(function, dynamic=True)
        self.compiles: bool | None = None  # unknown before the first call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """``function(*args, **kwargs)``."""
        if self.compiles is False:
            return self.function(*args, **kwargs)
        try:
            result = self.compiled(*args, **kwargs)
        except Exception as error:
            if self.compiles or is_out_of_memory(error):
                raise
            self.compiles = False
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            warnings.warn(f"computed without torch.compile, more slowly: {reason}", stacklevel=2)
            return self.function(*args, **kwargs)
        self.compiles = True
        return result


def rotary_functions(model: torch.nn.Module) -> Iterator[tuple[dict[str, Any], Callable[..., Any]]]:
    """The namespaces of transformers' modules that define a rotary function, each with the function."""
    names = {type(module).__module__ for module in model.modules()}
    for name in sorted(names):
        namespace = vars(sys.modules[name])
        if name.startswith("transformers.models.") and callable(namespace.get(ROTARY_FUNCTION)):
            yield namespace, namespace[ROTARY_FUNCTION]


def compile_rotary_functions(model: torch.nn.Module) -> list[tuple[dict[str, Any], RotaryFunction]]:
    """The namespaces with a rotary function, each with the compiled function."""
    return [(namespace, CompiledFunction(function)) for namespace, function in rotary_functions(model)]


@contextmanager
def use_rotary_functions(replacements: Sequence[tuple[dict[str, Any], RotaryFunction]]) -> Iterator[None]:
    """Context of forward and backward (where checkpointed layers run again): layers call the replacements."""
    for namespace, replacement in replacements:
        namespace[ROTARY_FUNCTION] = replacement
    try:
        yield
    finally:
        for namespace, replacement in replacements:
            namespace[ROTARY_FUNCTION] = replacement.function
