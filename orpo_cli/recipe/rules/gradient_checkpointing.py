"""Rules about activation checkpointing."""

from __future__ import annotations

from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.schema import Recipe


def checkpointing_conflict(recipe: Recipe) -> Iterator[Problem]:
    """``gradient_checkpointing`` and ``activation_checkpointing`` are two names of one setting."""
    training = recipe.training
    pairs = (
        ("activation_checkpointing", training.activation_checkpointing, training.gradient_checkpointing),
        ("activation_checkpointing_kwargs", training.activation_checkpointing_kwargs, training.gradient_checkpointing_kwargs),
    )  # fmt: skip
    for name, new, old in pairs:
        if new is not None and old is not None and new != old:
            yield Problem(
                "checkpointing-conflict",
                f"contradicts {name.replace('activation', 'gradient')}, its other name.",
                f"training.{name}",
                remedy="Keep one of the two.",
            )


def checkpointing_settings_unused(recipe: Recipe) -> Iterator[Problem]:
    """Arguments of checkpointing have no effect if it is off."""
    training = recipe.training
    off = training.gradient_checkpointing is False and not training.activation_checkpointing
    if not off and training.activation_checkpointing is not False:
        return
    for name in recipe.training.explicit_non_defaults(
        "gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"
    ):
        yield Problem(
            "checkpointing-settings-unused",
            "has no effect: activation checkpointing is off.",
            f"training.{name}",
            remedy="Remove it, or set gradient_checkpointing: true.",
        )


RULES = (checkpointing_conflict, checkpointing_settings_unused)
