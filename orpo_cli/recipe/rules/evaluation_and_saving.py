"""Rules about when there is evaluation and when a checkpoint, and about which checkpoint is the best."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from orpo_cli.errors import Problem
from orpo_cli.recipe.did_you_mean import did_you_mean
from orpo_cli.recipe.eval_save_defaults import eval_steps, eval_strategy, save_steps, save_strategy
from orpo_cli.recipe.rules.explicit_non_defaults import explicit_non_defaults
from orpo_cli.recipe.schema import Recipe

# What trl's ORPO trainer measures in an evaluation; each also with `eval_` in front.
METRICS = (
    "loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen",
    "logps/rejected", "logits/chosen", "logits/rejected", "nll_loss", "log_odds_ratio", "log_odds_chosen", "runtime",
    "samples_per_second", "steps_per_second",
)  # fmt: skip
HIGHER_IS_BETTER = ("rewards/accuracies", "rewards/margins", "log_odds_ratio", "log_odds_chosen")  # better when larger
HOLD_OUT = "Add `eval: {test_size: 0.05}` to `dataset`, or remove"


def evaluation_without_pairs(recipe: Recipe) -> Iterator[Problem]:
    """There is something to evaluate on."""
    training = recipe.training
    if recipe.dataset.eval is not None:
        return
    asking = {
        "eval_strategy": training.eval_strategy in ("steps", "epoch"),
        "eval_on_start": training.eval_on_start,
        "load_best_model_at_end": training.load_best_model_at_end,
    }
    for name in (name for name, asks in asking.items() if asks):
        yield Problem(
            "no-eval-data",
            "asks for evaluation, but dataset.eval names no pairs.",
            f"training.{name}",
            remedy=f"{HOLD_OUT} {name}.",
        )


def eval_settings_unused(recipe: Recipe) -> Iterator[Problem]:
    """How to evaluate is of no use where nothing is."""
    if recipe.dataset.eval is not None:
        return
    for name in explicit_non_defaults(recipe, "eval_steps", "eval_delay"):
        yield Problem(
            "eval-settings-unused",
            "would do nothing: dataset.eval names no pairs to evaluate on.",
            f"training.{name}",
            remedy=f"{HOLD_OUT} {name}.",
            severity="warning",
        )


def steps_unused(recipe: Recipe) -> Iterator[Problem]:
    """A number of steps is read only where the strategy is ``steps``. One that is switched off may keep its settings."""
    training = recipe.training
    for kind in ("eval", "save", "logging"):
        strategy, steps = getattr(training, f"{kind}_strategy"), f"{kind}_steps"
        if strategy in (None, "steps") or not explicit_non_defaults(recipe, steps):
            continue
        yield Problem(
            "steps-unused",
            f"would do nothing beside {kind}_strategy: {strategy}.",
            f"training.{steps}",
            remedy=f"Write {kind}_strategy: steps, or remove {steps}.",
            severity="warning" if strategy == "no" else "error",
        )


def save_total_limit_unused(recipe: Recipe) -> Iterator[Problem]:
    """save_total_limit bounds checkpoints."""
    if recipe.training.save_strategy == "no" and recipe.training.save_total_limit is not None:
        yield Problem(
            "steps-unused",
            "would do nothing beside save_strategy: no.",
            "training.save_total_limit",
            remedy="Remove it, or choose another save_strategy.",
            severity="warning",
        )


def fractional_steps(recipe: Recipe) -> Iterator[Problem]:
    """Below 1 a share of all steps, from 1 on a number of steps."""
    for name in ("eval_steps", "save_steps", "logging_steps", "warmup_steps"):
        steps = getattr(recipe.training, name)
        if steps is not None and steps > 1 and steps != int(steps):
            yield Problem(
                "fractional-steps",
                f"is {steps}, neither a share of all steps (below 1) nor a whole number of steps.",
                f"training.{name}",
                remedy=f"Write {round(steps)}, or a share such as 0.1.",
            )


def best_model_strategies(recipe: Recipe) -> Iterator[Problem]:
    """The best checkpoint can only be one that was both evaluated and saved."""
    if recipe.dataset.eval is None and recipe.training.save_strategy != "best":
        return  # evaluation_without_data says so
    evaluation, saving = eval_strategy(recipe)[0], save_strategy(recipe)[0]
    if saving == "best" and evaluation == "no":
        yield Problem(
            "best-model-strategies",
            "keeps the checkpoint that evaluates best, but nothing is evaluated.",
            "training.save_strategy",
            remedy="Hold pairs out with `eval: {test_size: 0.05}` in `dataset` and set eval_strategy to epoch or steps.",
        )
    elif recipe.training.load_best_model_at_end and saving != "best" and (evaluation != saving or saving == "no"):
        yield Problem(
            "best-model-strategies",
            f"needs evaluations and checkpoints at the same times, but eval_strategy is {evaluation} and save_strategy is "
            f"{saving}.",
            "training.load_best_model_at_end",
            remedy="Set both to `steps` or both to `epoch`.",
        )


def best_model_steps(recipe: Recipe) -> Iterator[Problem]:
    """With ``steps`` twice, each checkpoint falls on an evaluation."""
    if not recipe.training.load_best_model_at_end or recipe.dataset.eval is None:
        return
    if (eval_strategy(recipe)[0], save_strategy(recipe)[0]) != ("steps", "steps"):
        return
    evaluations, checkpoints = eval_steps(recipe)[0], save_steps(recipe)[0]
    if (evaluations < 1) == (checkpoints < 1) and _exact(checkpoints) % _exact(evaluations) == 0:
        return
    yield Problem(
        "best-model-steps",
        f"needs each checkpoint to fall on an evaluation, but save_steps = {checkpoints:g} is no multiple of eval_steps = "
        f"{evaluations:g}.",
        "training.load_best_model_at_end",
        remedy=f"Set save_steps to {evaluations:g}, or to a multiple of it.",
    )


def _exact(number: float) -> Fraction:
    return Fraction(str(number))  # 0.2 is no multiple of 0.1 in binary


def unknown_best_metric(recipe: Recipe) -> Iterator[Problem]:
    """The best model is best in something that is measured."""
    metric = recipe.training.metric_for_best_model
    if metric is None or metric.removeprefix("eval_") in METRICS:
        return
    yield Problem(
        "best-metric-unknown",
        f"is {metric!r}, which no evaluation measures.",
        "training.metric_for_best_model",
        remedy=did_you_mean(metric.removeprefix("eval_"), METRICS, f"Evaluations measure {', '.join(METRICS[:12])}."),
    )


def best_metric_unused(recipe: Recipe) -> Iterator[Problem]:
    """The metric chooses the checkpoint that is kept, or steers two of the schedules."""
    training = recipe.training
    steers = training.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
    if training.load_best_model_at_end or training.save_strategy == "best" or steers:
        return
    for name in explicit_non_defaults(recipe, "metric_for_best_model", "greater_is_better"):
        yield Problem(
            "best-metric-unused",
            "would do nothing: no best checkpoint is asked for.",
            f"training.{name}",
            remedy="Add load_best_model_at_end: true, or remove it.",
        )


def wrong_best_metric_direction(recipe: Recipe) -> Iterator[Problem]:
    """A loss gets better when it falls, an accuracy when it rises."""
    training = recipe.training
    if not training.load_best_model_at_end and training.save_strategy != "best":
        return
    metric = (training.metric_for_best_model or "loss").removeprefix("eval_")
    falls, rises = metric in ("loss", "nll_loss"), metric in HIGHER_IS_BETTER
    if (training.greater_is_better is True and falls) or (training.greater_is_better is False and rises):
        yield Problem(
            "best-metric-direction",
            f"would keep the checkpoint with the {'highest' if falls else 'lowest'} {metric}, the worst one.",
            "training.greater_is_better",
            remedy="Remove it: the direction follows from the metric.",
        )


RULES = (
    evaluation_without_pairs,
    eval_settings_unused,
    steps_unused,
    save_total_limit_unused,
    fractional_steps,
    best_model_strategies,
    best_model_steps,
    unknown_best_metric,
    best_metric_unused,
    wrong_best_metric_direction,
)
