"""Decisions of a plan: the origin and the reason of each value, recorded while the values are decided."""

from __future__ import annotations

from typing import Any

from orpo_cli.plan.plan import Why
from orpo_cli.recipe.load import LoadedRecipe

REASONS = {
    "recipe": "as the recipe says",
    "override": "set on the command line",
    "environment": "as an environment variable says",
    "default": "default",
}


class Decisions:
    """Reasons of the values, collected while they are decided."""

    def __init__(self, loaded: LoadedRecipe) -> None:
        self.loaded = loaded
        self.why: dict[str, Why] = {}

    def decide(self, path: str, value: Any, reason: str) -> Any:
        """Record ``reason`` for a value that is decided here; returns the value."""
        self.why[path] = Why(origin="decided", reason=reason)
        return value

    def keep(self, path: str, reason: str | None = None) -> None:
        """Record the origin of a value that was not decided here; ``reason`` replaces the usual one."""
        if path not in self.why:
            origin = self.loaded.origin_kind(path)
            self.why[path] = Why(origin=origin, reason=reason or REASONS[origin])
