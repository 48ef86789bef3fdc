"""Cross-field rules: values that exclude each other, and settings that would have no effect.

Each module has one topic, and each public function of these modules is one rule: it checks a recipe and yields a Problem if the
recipe breaks the rule. ``problems/CODE.md`` explains its code. Rules that depend on the machine or the model are in plan/checks.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType

from orpo_cli.errors import Problem
from orpo_cli.recipe.rules import (
    adapter,
    data,
    distributed,
    evaluation_and_saving,
    model,
    precision,
    schedule,
    tracking_and_hub,
    training_step,
)
from orpo_cli.recipe.schema import Recipe

RULES = tuple(
    rule
    for module in (
        model, precision, adapter, data, evaluation_and_saving, schedule, training_step, distributed, tracking_and_hub,
    )
    for name, rule in vars(module).items()
    if isinstance(rule, FunctionType) and rule.__module__ == module.__name__ and not name.startswith("_")
)  # fmt: skip


def rule_problems(recipe: Recipe) -> Iterator[Problem]:
    """The problems of all rules that ``recipe`` breaks, with dotted paths but without file and line."""
    for rule in RULES:
        yield from rule(recipe)
