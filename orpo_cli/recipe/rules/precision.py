"""Rules about number types."""

from __future__ import annotations

from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.schema import Recipe


def one_half_precision(recipe: Recipe) -> Iterator[Problem]:
    """bf16 and fp16 are two ways to compute in 16 bits."""
    if recipe.training.bf16 and recipe.training.fp16:
        yield Problem("bf16-and-fp16", "bf16 and fp16 exclude each other.", "training.fp16", remedy="Keep one.")


RULES = (one_half_precision,)
