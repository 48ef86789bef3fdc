"""Origin and reason of each value of a plan: recorded while it is decided, shown with file and line by `orpo plan --show-origin`."""

from __future__ import annotations

from typing import Any, TypeVar

from orpo_cli.planning.plan import Why, is_leaf
from orpo_cli.recipe.load import LoadedRecipe
from orpo_cli.recipe.source.source_map import OriginKind

Value = TypeVar("Value")

REASONS = {
    "recipe": "as the recipe says",
    "override": "set on the command line",
    "environment": "as an environment variable says",
    "default": "default",
}


def origin_reason(origin: OriginKind, loaded: LoadedRecipe) -> str:
    """The reason of a value that was not decided here."""
    return "given in Python" if origin == "override" and loaded.in_memory is not None else REASONS[origin]


class Decisions:
    """Reasons of the values, collected while they are decided."""

    def __init__(self, loaded: LoadedRecipe) -> None:
        self.loaded = loaded
        self.why: dict[str, Why] = {}

    def decide(self, path: str, value: Value, reason: str) -> Value:
        """Record ``reason`` for a value that is decided here; returns the value."""
        self.why[path] = Why(origin="decided", reason=reason)
        return value

    def keep(self, path: str, reason: str | None = None) -> None:
        """Record the origin of a value that was not decided here; ``reason`` replaces the usual one."""
        if path not in self.why:
            origin = self.loaded.origin_kind(path)
            self.why[path] = Why(origin=origin, reason=reason or origin_reason(origin, self.loaded))


def with_origins(document: dict[str, Any], loaded: LoadedRecipe, prefix: str = "") -> dict[str, Any]:
    """The content of plan.json, with ``file``, ``line``, ``column`` and ``variables`` (of the environment) in each leaf.

    They are null, and ``variables`` empty, for a value that nobody wrote. A list of sources also has ``parts``: such leaves
    for each source.
    """
    result: dict[str, Any] = {}
    for key, entry in document.items():
        path = f"{prefix}{key}"
        if not is_leaf(entry):
            result[key] = with_origins(entry, loaded, f"{path}.")
            continue
        result[key] = {**entry, **_origin(loaded, path)}
        if isinstance(entry["value"], list) and all(isinstance(item, dict) for item in entry["value"]):
            result[key]["parts"] = [
                with_origins(_leaves(item, loaded, f"{path}[{index}]."), loaded, f"{path}[{index}].")
                for index, item in enumerate(entry["value"])
            ]
    return result


def _leaves(item: dict[str, Any], loaded: LoadedRecipe, prefix: str) -> dict[str, Any]:
    return {
        key: {
            "value": value,
            "origin": (origin := loaded.origin_kind(f"{prefix}{key}")),
            "reason": origin_reason(origin, loaded),
        }
        for key, value in item.items()
    }


def _origin(loaded: LoadedRecipe, path: str) -> dict[str, Any]:
    origin = loaded.source_map.origin(path)
    location = {name: getattr(origin, name, None) for name in ("file", "line", "column")}
    return {**location, "variables": list(origin.variables) if origin else []}
