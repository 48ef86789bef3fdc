"""Rules about the number of steps and the learning rate schedule."""

from __future__ import annotations

from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.eval_save_defaults import SCHEDULES_WITHOUT_WARMUP, eval_strategy
from orpo_cli.recipe.schema import Recipe

# Keyword arguments of each schedule in transformers 5.23; a test compares them with the functions of the library.
SCHEDULE_ARGUMENTS = {
    "linear": (),
    "cosine": ("num_cycles",),
    "cosine_with_restarts": ("num_cycles",),
    "polynomial": ("lr_end", "power"),
    "constant": (),
    "constant_with_warmup": (),
    "inverse_sqrt": ("timescale",),
    "reduce_lr_on_plateau": ("mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps"),
    "cosine_with_min_lr": ("num_cycles", "min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("num_cycles", "min_lr", "min_lr_rate", "warmup_lr_rate"),
    "warmup_stable_decay": (
        "num_decay_steps", "num_stable_steps", "warmup_type", "decay_type", "min_lr_ratio", "num_cycles",
    ),
    "greedy": (
        "mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "warmup", "min_lr", "max_lr", "eps", "verbose",
        "smooth", "window_size", "reset_start",
    ),
}  # fmt: skip
# Exactly one of each group is required.
REQUIRED_ARGUMENTS = {
    "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
    "warmup_stable_decay": ("num_decay_steps",),
}


def zero_max_steps(recipe: Recipe) -> Iterator[Problem]:
    """The library treats 0 like -1: no limit."""
    if recipe.training.max_steps == 0:
        yield Problem(
            "max-steps-zero",
            "is 0, which the library reads as no limit.",
            "training.max_steps",
            remedy="Write a number of steps, or -1 (or nothing) to train for num_train_epochs.",
        )


def warmup_unused(recipe: Recipe) -> Iterator[Problem]:
    """Schedules without warm-up ignore warmup_steps."""
    schedule = recipe.training.lr_scheduler_type
    if schedule in SCHEDULES_WITHOUT_WARMUP and recipe.training.explicit_non_defaults("warmup_steps"):
        yield Problem(
            "warmup-unused",
            f"has no effect: lr_scheduler_type {schedule} has no warm-up.",
            "training.warmup_steps",
            remedy="Use constant_with_warmup, or remove it." if schedule == "constant" else "Remove it.",
        )


def warmup_too_long(recipe: Recipe) -> Iterator[Problem]:
    """A warm-up that is as long as the run never reaches the learning rate."""
    steps, warmup = recipe.training.max_steps, recipe.training.warmup_steps
    if steps is not None and steps > 0 and warmup is not None and warmup >= steps:
        yield Problem(
            "warmup-too-long",
            f"is {warmup:g}, but the run ends after max_steps = {steps}, before the learning rate is reached.",
            "training.warmup_steps",
            remedy="Lower it, or write it as a fraction of all steps, such as 0.1.",
            severity="warning",
        )


def schedule_arguments(recipe: Recipe) -> Iterator[Problem]:
    """A schedule needs its required arguments and refuses unknown ones."""
    schedule, arguments = recipe.training.lr_scheduler_type or "cosine", recipe.training.lr_scheduler_kwargs
    if isinstance(arguments, str):
        return  # a JSON text that the library reads
    arguments = arguments or {}
    known, required = SCHEDULE_ARGUMENTS[schedule], REQUIRED_ARGUMENTS.get(schedule, ())
    for name in arguments:
        if name not in known:
            yield Problem(
                "schedule-arguments",
                f"lr_scheduler_type {schedule} has no argument {name}.",
                "training.lr_scheduler_kwargs",
                remedy=f"Its arguments are {', '.join(known)}."
                if known
                else "It has none; remove lr_scheduler_kwargs.",
            )
    if required and sum(arguments.get(name) is not None for name in required) != 1:
        yield Problem(
            "schedule-arguments",
            f"is {schedule}, which needs {' or '.join(required)} in lr_scheduler_kwargs{', but not both' * (len(required) > 1)}.",
            "training.lr_scheduler_type",
            remedy=f"Add lr_scheduler_kwargs: {{{required[-1]}: {0.1 if 'rate' in required[-1] else 100}}}.",
        )


def schedule_without_evaluation(recipe: Recipe) -> Iterator[Problem]:
    """Two schedules depend on evaluations."""
    schedule = recipe.training.lr_scheduler_type
    if schedule in ("reduce_lr_on_plateau", "greedy") and eval_strategy(recipe)[0] == "no":
        yield Problem(
            "schedule-without-evaluation",
            f"is {schedule}, which depends on evaluations, but there are none.",
            "training.lr_scheduler_type",
            remedy="Add `eval: {test_size: 0.05}` to `dataset`, or choose another schedule.",
        )
