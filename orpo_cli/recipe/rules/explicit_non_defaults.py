"""What a recipe really asks for under ``training``."""

from __future__ import annotations

from orpo_cli.recipe.schema import Recipe
from orpo_cli.recipe.schema.training_fields import LIBRARY_DEFAULTS


def explicit_non_defaults(recipe: Recipe, *names: str) -> list[str]:
    """Those of ``names`` that the recipe sets to another value than the library's default, which would change nothing."""
    values = ((name, getattr(recipe.training, name)) for name in names)
    return [name for name, value in values if value is not None and value != LIBRARY_DEFAULTS[name]]
