"""Small functions between the matrix products of a layer, each as one kernel in either pass, on CUDA.

transformers' rotary embedding is the same function for all layers of an architecture, found under its name in the
architecture's module; it is compiled as it is, so what it computes does not change.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from orpo_cli.training.out_of_memory import is_out_of_memory

ROTARY = "apply_rotary_pos_emb"


class Compiled:
    """``function`` through torch.compile for all sizes; as it is where there is nothing to compile it with."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.compiled = torch.compile(function, dynamic=True)
        self.works: bool | None = None  # not known before the first call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function gives."""
        if self.works is False:
            return self.function(*args, **kwargs)
        try:
            result = self.compiled(*args, **kwargs)
        except Exception as error:  # no compiler of C, no Triton
            if self.works or is_out_of_memory(error):
                raise
            self.works = False
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            warnings.warn(f"computed without torch.compile, more slowly: {reason}", stacklevel=2)
            return self.function(*args, **kwargs)
        self.works = True
        return result


def rotary_embeddings(model: torch.nn.Module) -> list[tuple[dict[str, Any], Compiled]]:
    """The modules whose functions rotate queries and keys, each with the compiled function."""
    names = {type(module).__module__ for module in model.modules()}
    places = [vars(sys.modules[name]) for name in sorted(names) if name.startswith("transformers.models.")]
    return [(place, Compiled(place[ROTARY])) for place in places if callable(place.get(ROTARY))]


@contextmanager
def rotating(rotaries: Sequence[tuple[dict[str, Any], Compiled]]) -> Iterator[None]:
    """Let the layers rotate by the compiled functions; for forward and backward, as checkpointed layers run again there."""
    for place, compiled in rotaries:
        place[ROTARY] = compiled
    try:
        yield
    finally:
        for place, compiled in rotaries:
            place[ROTARY] = compiled.function
