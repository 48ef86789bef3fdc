"""Rules about the LoRA adapter: its modules, initialization, dropout and learning rates, and settings that peft cannot combine."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.schema import Recipe

# Prefixes of optimizers for which transformers chooses the parameters itself, or which do not support parameter groups.
OPTIMIZERS_WITHOUT_GROUPS = ("galore_", "apollo_", "lomo", "adalomo")
INITS_FROM_BASE_WEIGHTS = {  # initializations computed from the weights of the base model, and why they cannot be quantized
    "pissa": "peft cannot decompose quantized weights",
    "mica": "peft cannot decompose quantized weights",
    "loftq": "LoftQ quantizes the base model itself",
    "olora": "the base would be quantized a second time, and again with another result in a merge",
}


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
        except (re.error, OverflowError, RecursionError) as error:  # the last two: too large or too deep
            yield Problem(
                "target-pattern",
                f"is not a valid regular expression: {error}.",
                f"lora.{name}",
                remedy="Correct it, or list the modules: [q_proj, v_proj].",
            )


def target_parameters_conflicts(recipe: Recipe) -> Iterator[Problem]:
    """peft adds the adapter of a parameter to the parameter itself, which rules out dropout, bias and other settings."""
    lora = recipe.lora
    if lora is None or not lora.target_parameters:
        return
    if lora.lora_dropout > 0:
        yield Problem(
            "dropout-on-parameters",
            f"is {lora.lora_dropout}, but an adapter on target_parameters cannot have dropout.",
            "lora.lora_dropout",
            remedy="Set it to 0, or use target_modules.",
        )
    for name in ("use_dora", "lora_bias", "fan_in_fan_out", "velora_config"):
        if getattr(lora, name):
            yield _conflict(name, "cannot be combined with target_parameters.")
    if lora.init_lora_weights not in (True, False, "gaussian"):
        yield _conflict(
            "init_lora_weights", f"{lora.init_lora_weights} cannot be combined with target_parameters.", "Use true."
        )


def init_conflicts(recipe: Recipe) -> Iterator[Problem]:
    """Each initialization needs its settings, and settings of another one have no effect."""
    lora = recipe.lora
    if lora is None:
        return
    if lora.loftq_config is not None and lora.init_lora_weights != "loftq":
        yield _conflict("loftq_config", "has no effect: init_lora_weights is not loftq.")
    if lora.init_lora_weights == "loftq" and lora.loftq_config is None:
        remedy = "Add `loftq_config: {loftq_bits: 4}`."
        yield _conflict("init_lora_weights", "is loftq, which needs the number of bits.", remedy)
    reason = INITS_FROM_BASE_WEIGHTS.get(str(lora.init_lora_weights))
    if reason is not None and recipe.quantization is not None:
        remedy = "Remove quantization, or use init_lora_weights: true or orthogonal."
        yield _conflict(
            "init_lora_weights", f"is {lora.init_lora_weights}, but the base model is quantized: {reason}.", remedy
        )
    if lora.init_lora_weights == "orthogonal" and (
        odd := [rank for rank in (lora.r, *lora.rank_pattern.values()) if rank % 2]
    ):
        yield _conflict(
            "init_lora_weights", f"is orthogonal, which needs even ranks, but one rank is {odd[0]}.", "Use true."
        )


def lora_bias_conflicts(recipe: Recipe) -> Iterator[Problem]:
    """peft supports a bias of B only in a plain adapter."""
    lora = recipe.lora
    if lora is None or not lora.lora_bias:
        return
    if lora.use_dora:
        yield _conflict("lora_bias", "cannot be combined with use_dora.")
    if not isinstance(lora.init_lora_weights, bool):
        yield _conflict("lora_bias", f"cannot be combined with init_lora_weights: {lora.init_lora_weights}.")


def weight_tying_unused(recipe: Recipe) -> Iterator[Problem]:
    """Tied weights can differ only if one of them is trained directly."""
    lora = recipe.lora
    if lora is None or not lora.ensure_weight_tying or recipe.model.add_special_tokens:
        return
    if not lora.modules_to_save and not lora.trainable_token_indices:
        yield _conflict("ensure_weight_tying", "has no effect without modules_to_save or trainable_token_indices.")


def lora_plus_conflicts(recipe: Recipe) -> Iterator[Problem]:
    """LoRA+ needs one parameter group for each of the two matrices."""
    lora, optimizer = recipe.lora, recipe.training.optim or ""
    if lora is None:
        return
    if lora.loraplus_lr_embedding is not None and lora.loraplus_lr_ratio is None:
        yield Problem(
            "lora-plus",
            "has no effect without loraplus_lr_ratio, which enables LoRA+.",
            "lora.loraplus_lr_embedding",
            remedy="Add `loraplus_lr_ratio: 16`, or remove it.",
        )
    if lora.loraplus_lr_ratio is not None and (
        optimizer.startswith(OPTIMIZERS_WITHOUT_GROUPS) or optimizer.endswith("_layerwise")
    ):
        yield Problem(
            "lora-plus",
            f"cannot be combined with {optimizer}, which creates its own parameter groups.",
            "lora.loraplus_lr_ratio",
            remedy="Use an optimizer such as adamw_torch, or remove it.",
        )


def _conflict(name: str, message: str, remedy: str = "Remove it.") -> Problem:
    return Problem("adapter-settings", message, f"lora.{name}", remedy=remedy)
