"""Cross-field rules: values that exclude each other, and settings that would have no effect.

Each module has one topic and each function is one rule: it checks a recipe and yields a Problem if the recipe breaks the rule.
``problems/CODE.md`` explains its code. Rules that depend on the machine or the model are in plan/checks.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.rules import (
    adapter,
    adapter_init,
    data,
    data_loading,
    distributed,
    evaluation_and_saving,
    gradient_checkpointing,
    hub,
    model,
    optimizer,
    precision,
    quantization,
    schedule,
    tracking,
)
from orpo_cli.recipe.schema import Recipe

RULE_MODULES = (
    model,
    precision,
    quantization,
    adapter,
    adapter_init,
    data,
    data_loading,
    evaluation_and_saving,
    schedule,
    optimizer,
    gradient_checkpointing,
    distributed,
    tracking,
    hub,
)


def rule_problems(recipe: Recipe) -> Iterator[Problem]:
    """The problems of all rules that ``recipe`` breaks, with dotted paths but without file and line."""
    for module in RULE_MODULES:
        for rule in module.RULES:
            yield from rule(recipe)
