"""Origin of each value of a plan, with file and line: `orpo plan --show-origin`."""

from __future__ import annotations

from typing import Any

from orpo_cli.plan.decisions import REASONS
from orpo_cli.plan.plan import is_leaf
from orpo_cli.recipe.load import LoadedRecipe


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
        key: {"value": value, "origin": (origin := loaded.origin_kind(f"{prefix}{key}")), "reason": REASONS[origin]}
        for key, value in item.items()
    }


def _origin(loaded: LoadedRecipe, path: str) -> dict[str, Any]:
    origin = loaded.source_map.origin(path)
    if origin is None:
        return {"file": None, "line": None, "column": None, "variables": []}
    return {
        "file": origin.file,
        "line": origin.line,
        "column": origin.column,
        "variables": list(origin.variables),
    }
