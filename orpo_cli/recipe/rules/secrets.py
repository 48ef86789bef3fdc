"""A recipe is shared, so no secret may stand in it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.schema import Recipe

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")


def no_secrets(recipe: Recipe) -> Iterator[Problem]:
    """No token in any text of the recipe. The message does not repeat it."""
    for path in _secrets(recipe.model_dump(), ""):
        yield Problem(
            "secret-in-recipe",
            "holds a hub token.",
            path,
            remedy="Remove it and revoke it; set HF_TOKEN or run `hf auth login`.",
        )


def _secrets(value: object, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _secrets(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _secrets(inner, f"{path}[{index}]")
    elif isinstance(value, str) and _TOKEN.search(value):
        yield path


RULES = (no_secrets,)
