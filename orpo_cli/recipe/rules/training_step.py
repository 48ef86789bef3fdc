"""Rules about the training step: the optimizer, beta and activation checkpointing."""

from __future__ import annotations

import math
from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.schema import Recipe

MAX_PAIRS_PER_STEP = 1_000_000

# Optimizers to which transformers 5.23 (trainer_optimizer.py) does not pass an argument; `galore_adamw` and `grokadamw` get no betas.
NO_BETAS = (
    "adafactor", "sgd", "adagrad", "rmsprop", "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit", "lomo", "adalomo",
    "grokadamw", "schedule_free_sgd", "galore_adamw", "galore_adamw_8bit", "galore_adafactor", "galore_adamw_layerwise",
    "galore_adamw_8bit_layerwise", "galore_adafactor_layerwise",
)  # fmt: skip
NO_EPSILON = ("lion_8bit", "lion_32bit", "paged_lion_8bit", "paged_lion_32bit")
NO_ARGUMENTS = (
    "adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused", "adafactor", "adamw_bnb_8bit",
    "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "lion_8bit", "lion_32bit", "paged_lion_8bit",
    "paged_lion_32bit", "lomo", "adalomo",
)  # fmt: skip


def too_many_pairs_per_step(recipe: Recipe) -> Iterator[Problem]:
    """A step of more pairs than a data set has never ends, nor does its estimate."""
    training = recipe.training
    names = ("per_device_train_batch_size", "gradient_accumulation_steps")
    values = {name: getattr(training, name) or 1 for name in names}
    name = max(values, key=lambda each: values[each])
    if math.prod(values.values()) > MAX_PAIRS_PER_STEP:
        yield Problem(
            "invalid-value",
            f"is {values[name]:,}, which makes more than {MAX_PAIRS_PER_STEP:,} pairs per step.",
            f"training.{name}",
            remedy="Set it to a smaller number; 32 or 64 pairs per step are usual.",
        )


def adam_settings_unused(recipe: Recipe) -> Iterator[Problem]:
    """Betas and epsilon of Adam have no effect on other optimizers."""
    optimizer = recipe.training.optim
    for name in recipe.training.explicit_non_defaults("adam_beta1", "adam_beta2", "adam_epsilon"):
        if optimizer in NO_BETAS or (name == "adam_epsilon" and optimizer in NO_EPSILON):
            yield Problem(
                "adam-settings-unused",
                f"has no effect: transformers does not pass it to {optimizer}.",
                f"training.{name}",
                remedy="Remove it, or choose an optimizer of the Adam family, such as adamw_torch.",
            )


def optimizer_arguments(recipe: Recipe) -> Iterator[Problem]:
    """Only some optimizers get optim_args, as ``name=value`` pairs."""
    arguments, optimizer = recipe.training.optim_args, recipe.training.optim
    if not arguments:
        return
    if optimizer in NO_ARGUMENTS or optimizer is None:
        yield Problem(
            "optimizer-arguments",
            f"has no effect: transformers does not pass it to {optimizer or 'the default optimizer'}.",
            "training.optim_args",
            remedy="Remove it; the arguments of Adam are adam_beta1, adam_beta2 and adam_epsilon.",
        )
    elif any(part.count("=") != 1 for part in arguments.split(",")):
        yield Problem(
            "optimizer-arguments",
            "must be of the form name=value, name=value.",
            "training.optim_args",
            remedy="For example `rank=64, update_proj_gap=100`.",
        )


def optimizer_modules(recipe: Recipe) -> Iterator[Problem]:
    """GaLore and APOLLO need the modules whose gradients they project; other optimizers ignore them."""
    optimizer, targets = recipe.training.optim or "", recipe.training.optim_target_modules
    low_rank = optimizer.startswith(("galore_", "apollo_"))
    if low_rank and targets is None:
        yield Problem(
            "optimizer-modules",
            f"is {optimizer}, which needs the modules whose gradients it projects.",
            "training.optim",
            remedy="Add optim_target_modules: all-linear.",
        )
    elif targets is not None and not low_rank:
        yield Problem(
            "optimizer-modules",
            f"has no effect: only GaLore and APOLLO use it, not {optimizer or 'the default optimizer'}.",
            "training.optim_target_modules",
            remedy="Remove it, or set optim to galore_adamw or apollo_adamw.",
        )


def layerwise_with_accumulation(recipe: Recipe) -> Iterator[Problem]:
    """A layer-wise optimizer updates weights in every backward pass, so gradients cannot be accumulated."""
    optimizer, accumulation = recipe.training.optim or "", recipe.training.gradient_accumulation_steps
    if optimizer.endswith("_layerwise") and accumulation is not None and accumulation > 1:
        yield Problem(
            "layerwise-accumulation",
            f"is {accumulation}, but {optimizer} updates the weights in every backward pass.",
            "training.gradient_accumulation_steps",
            remedy=f"Set it to 1, or use {optimizer.removesuffix('_layerwise')}.",
        )


def unusual_beta(recipe: Recipe) -> Iterator[Problem]:
    """beta is the weight of the odds ratio term, lambda in the paper."""
    beta = recipe.training.beta
    if beta is None or 0.01 <= beta <= 2:
        return
    message = f"is {beta:g}; lambda in the paper is between 0.1 and 1.0, and its authors use 0.05 at 7B."
    if beta == 0:
        message = "is 0, so rejected completions have no effect: this is supervised fine-tuning on the chosen ones."
    yield Problem(
        "unusual-beta",
        message,
        "training.beta",
        remedy="Remove it to use the default for the model size.",
        severity="warning",
    )


def no_loss(recipe: Recipe) -> Iterator[Problem]:
    """With a weight of 0 for both terms, the loss is constant."""
    training = recipe.training
    if training.beta == 0 and training.nll_weight == 0:
        yield Problem(
            "invalid-value",
            "is 0, and so is beta: the loss has no term that could train the model.",
            "training.nll_weight",
            remedy="Remove one of the two; nll_weight 0 keeps the odds ratio term alone, beta 0 the NLL alone.",
        )


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
