"""What the language has names for and this version cannot do: refused, because it would do nothing."""

from __future__ import annotations

from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.schema import Recipe


def unsupported_launch_settings(recipe: Recipe) -> Iterator[Problem]:
    """Each setting that another version will obey."""
    version = "is not supported in this version."
    if recipe.launch.num_processes not in ("auto", 1):
        yield Problem("unsupported-setting", version, "launch.num_processes", remedy="Use 1 or auto.")
    if recipe.launch.strategy not in ("auto", "single"):
        yield Problem("unsupported-setting", version, "launch.strategy", remedy="Use single or auto.")


RULES = (unsupported_launch_settings,)
