"""Explain workflow (`orpo explain KEY RECIPE`): the values that a recipe gives to a key or to the keys of a section, with reasons."""

from __future__ import annotations

import re
from typing import Any

from orpo_cli.planning.decisions import with_origins
from orpo_cli.recipe.key_reference import INDEX
from orpo_cli.report.console import Console
from orpo_cli.report.plan_view import plan_leaves, reason_of
from orpo_cli.workflows.plan import build_plan, load_recipe_reporting


def planned_values(key: str, recipe: str, console: Console) -> list[dict[str, Any]]:
    """``path``, ``value``, ``origin`` and ``reason`` of the values below a dotted key in the plan of a recipe; warnings go to standard error."""
    loaded = load_recipe_reporting(recipe, None, console, strict=False)
    plan = build_plan(loaded, console, to_train=False, strict=False).plan
    wanted = re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", key)
    return [
        {"path": path, "value": entry["value"], "origin": entry["origin"], "reason": reason_of(entry)}
        for path, entry in plan_leaves(with_origins(plan.to_document(), loaded))
        if any(f"{name}.".startswith((f"{wanted}.", f"{wanted}[")) for name in (path, INDEX.sub("", path)))
    ]
