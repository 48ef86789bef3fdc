"""Rules about how the LoRA adapter starts and learns, and about what peft cannot combine."""

from __future__ import annotations

from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.schema import LoraSection, Recipe

# Optimizers that transformers builds around parameters of its own choice, or that take no groups of them.
OPTIMIZERS_WITHOUT_GROUPS = ("galore_", "apollo_", "lomo", "adalomo")
INITS_FROM_BASE_WEIGHTS = {  # starts that decompose the base's own weights, and what each is when these are quantized
    "pissa": "peft cannot decompose quantized weights",
    "mica": "peft cannot decompose quantized weights",
    "loftq": "LoftQ quantizes the base itself",
    "olora": "the base would be quantized a second time, and differently when it is merged",
}


def target_parameters_conflicts(recipe: Recipe) -> Iterator[Problem]:
    """peft adapts a bare parameter by adding to it, which has no place for these."""
    lora = recipe.lora
    if lora is None or not lora.target_parameters:
        return
    if lora.lora_dropout > 0:
        yield Problem(
            "dropout-on-parameters",
            f"is {lora.lora_dropout}, and an adapter on target_parameters can have no dropout.",
            "lora.lora_dropout",
            remedy="Set it to 0, or target modules instead.",
        )
    for name in ("use_dora", "lora_bias", "fan_in_fan_out", "velora_config"):
        if getattr(lora, name):
            yield _conflict(name, "does not go with target_parameters.")
    if lora.init_lora_weights not in (True, False, "gaussian"):
        yield _conflict(
            "init_lora_weights", f"{lora.init_lora_weights} does not go with target_parameters.", "Use true."
        )


def init_conflicts(recipe: Recipe) -> Iterator[Problem]:
    """A start has what it needs, and nothing is set for one that is not asked for."""
    lora = recipe.lora
    if lora is None:
        return
    if lora.loftq_config is not None and lora.init_lora_weights != "loftq":
        yield _conflict("loftq_config", "would do nothing: init_lora_weights is not loftq.")
    if lora.init_lora_weights == "loftq" and lora.loftq_config is None:
        remedy = "Add `loftq_config: {loftq_bits: 4}`."
        yield _conflict("init_lora_weights", "is loftq, which needs to know how many bits.", remedy)
    why = INITS_FROM_BASE_WEIGHTS.get(str(lora.init_lora_weights))
    if why is not None and recipe.quantization is not None:
        remedy = "Leave quantization out, or use init_lora_weights: true or orthogonal."
        yield _conflict("init_lora_weights", f"is {lora.init_lora_weights}, and the base is quantized: {why}.", remedy)
    if lora.init_lora_weights == "orthogonal" and (odd := [rank for rank in _ranks(lora) if rank % 2]):
        yield _conflict(
            "init_lora_weights", f"is orthogonal, which needs even ranks, and one is {odd[0]}.", "Use true."
        )


def lora_bias_conflicts(recipe: Recipe) -> Iterator[Problem]:
    """peft gives B a bias only in a plain adapter."""
    lora = recipe.lora
    if lora is None or not lora.lora_bias:
        return
    if lora.use_dora:
        yield _conflict("lora_bias", "does not go with use_dora.")
    if not isinstance(lora.init_lora_weights, bool):
        yield _conflict("lora_bias", f"does not go with init_lora_weights: {lora.init_lora_weights}.")


def weight_tying_unused(recipe: Recipe) -> Iterator[Problem]:
    """Only what is trained in full can come untied."""
    lora = recipe.lora
    if lora is None or not lora.ensure_weight_tying or recipe.model.add_special_tokens:
        return
    if not lora.modules_to_save and not lora.trainable_token_indices:
        yield _conflict("ensure_weight_tying", "would do nothing without modules_to_save or trainable_token_indices.")


def lora_plus_conflicts(recipe: Recipe) -> Iterator[Problem]:
    """LoRA+ gives the two matrices groups of their own in the optimizer."""
    lora, optimizer = recipe.lora, recipe.training.optim or ""
    if lora is None:
        return
    if lora.loraplus_lr_embedding is not None and lora.loraplus_lr_ratio is None:
        yield Problem(
            "lora-plus",
            "would do nothing without loraplus_lr_ratio, which turns LoRA+ on.",
            "lora.loraplus_lr_embedding",
            remedy="Add `loraplus_lr_ratio: 16`, or remove it.",
        )
    if lora.loraplus_lr_ratio is not None and (
        optimizer.startswith(OPTIMIZERS_WITHOUT_GROUPS) or optimizer.endswith("_layerwise")
    ):
        yield Problem(
            "lora-plus",
            f"does not go with {optimizer}, which sets up groups of its own.",
            "lora.loraplus_lr_ratio",
            remedy="Use an optimizer such as adamw_torch, or remove it.",
        )


def _conflict(name: str, message: str, remedy: str = "Remove it.") -> Problem:
    return Problem("adapter-settings", message, f"lora.{name}", remedy=remedy)


def _ranks(lora: LoraSection) -> list[int]:
    return [lora.r, *lora.rank_pattern.values()]


RULES = (target_parameters_conflicts, init_conflicts, lora_bias_conflicts, weight_tying_unused, lora_plus_conflicts)
