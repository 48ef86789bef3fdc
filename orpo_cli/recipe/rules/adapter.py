"""Rules about the modules and layers that get a LoRA adapter, and about its dropout."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.schema import Recipe


def lora_dropout_is_disabled(recipe: Recipe) -> Iterator[Problem]:
    """trl disables dropout after the adapter is added, so the adapter has none either."""
    lora = recipe.lora
    if lora is not None and lora.lora_dropout > 0 and recipe.training.disable_dropout:
        yield Problem(
            "dropout-disabled",
            f"has no effect: training.disable_dropout sets lora_dropout = {lora.lora_dropout} to zero.",
            "lora.lora_dropout",
            remedy="Remove training.disable_dropout, or set lora_dropout to 0.",
        )


def layers_pattern_without_layers(recipe: Recipe) -> Iterator[Problem]:
    """peft uses layers_pattern only to find the layers of layers_to_transform."""
    lora = recipe.lora
    if lora is not None and lora.layers_pattern and lora.layers_to_transform is None:
        yield Problem(
            "layers-pattern-unused", "has no effect without layers_to_transform.", "lora.layers_pattern",
            remedy="Add layers_to_transform, or remove it.",
        )  # fmt: skip


def layers_need_target_list(recipe: Recipe) -> Iterator[Problem]:
    """peft selects layers by module name; `all-linear` and regular expressions are not names."""
    lora = recipe.lora
    if lora is not None and lora.layers_to_transform is not None and isinstance(lora.target_modules, str):
        peft = "ignores it for `all-linear`" if lora.target_modules == "all-linear" else "refuses it for a pattern"
        yield Problem(
            "layers-need-target-list",
            f"needs target_modules as a list of names: peft {peft}.",
            "lora.layers_to_transform",
            remedy="List the modules, such as [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj].",
        )


def target_pattern_does_not_compile(recipe: Recipe) -> Iterator[Problem]:
    """A text is a regular expression for full module names."""
    lora = recipe.lora
    for name in ("target_modules", "exclude_modules") if lora is not None else ():
        pattern = getattr(lora, name)
        if not isinstance(pattern, str):
            continue
        try:
            re.compile(pattern)
        except (
            re.error,
            OverflowError,
            RecursionError,
        ) as error:  # the last two if the pattern is too large or too deep
            yield Problem(
                "target-pattern",
                f"is not a valid regular expression: {error}.",
                f"lora.{name}",
                remedy="Correct it, or list the modules: [q_proj, v_proj].",
            )


RULES = (
    lora_dropout_is_disabled,
    layers_pattern_without_layers,
    layers_need_target_list,
    target_pattern_does_not_compile,
)
