"""Rules about the LoRA adapter."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.schema import Recipe


def lora_dropout_is_disabled(recipe: Recipe) -> Iterator[Problem]:
    """trl disables dropout after the adapter is put on, so the adapter's goes too."""
    lora = recipe.lora
    if lora is not None and lora.lora_dropout > 0 and recipe.training.disable_dropout:
        yield Problem(
            "dropout-disabled",
            f"would do nothing: training.disable_dropout also sets lora_dropout = {lora.lora_dropout} to zero.",
            "lora.lora_dropout",
            remedy="Remove training.disable_dropout, or set lora_dropout to 0.",
        )


def layers_pattern_without_layers(recipe: Recipe) -> Iterator[Problem]:
    """layers_pattern says where the layers of layers_to_transform are."""
    lora = recipe.lora
    if lora is not None and lora.layers_pattern and lora.layers_to_transform is None:
        yield Problem(
            "layers-pattern-unused", "would do nothing without layers_to_transform.", "lora.layers_pattern",
            remedy="Add layers_to_transform, or remove it.",
        )  # fmt: skip


def layers_need_target_list(recipe: Recipe) -> Iterator[Problem]:
    """peft looks for the layers by module name, and neither `all-linear` nor a regular expression is one."""
    lora = recipe.lora
    if lora is not None and lora.layers_to_transform is not None and isinstance(lora.target_modules, str):
        what = (
            "ignores it beside `all-linear`" if lora.target_modules == "all-linear" else "refuses it beside a pattern"
        )
        yield Problem(
            "layers-need-target-list",
            f"needs target_modules as a list of names: peft {what}.",
            "lora.layers_to_transform",
            remedy="List the modules, such as [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj].",
        )


def target_pattern_does_not_compile(recipe: Recipe) -> Iterator[Problem]:
    """A text that names modules is a regular expression of their whole names."""
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
        ) as error:  # the last two for one that is too large, or too deep
            yield Problem(
                "target-pattern",
                f"is no regular expression: {error}.",
                f"lora.{name}",
                remedy="Correct it, or list the modules: [q_proj, v_proj].",
            )


RULES = (
    lora_dropout_is_disabled,
    layers_pattern_without_layers,
    layers_need_target_list,
    target_pattern_does_not_compile,
)
