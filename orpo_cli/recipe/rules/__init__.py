"""Rules that no single value can break: what does not go together, and what would do nothing.

A module a topic, a function a rule. A rule looks at a whole recipe and yields a Problem where it is broken; its code is the
name of a page in docs/troubleshooting. Rules that need to know the machine or the model are those of the plan.
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
    unsupported,
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
    unsupported,
)


def rule_problems(recipe: Recipe) -> Iterator[Problem]:
    """Every rule that ``recipe`` breaks; paths are dotted names, without file and line."""
    for topic in RULE_MODULES:
        for rule in topic.RULES:
            yield from rule(recipe)
