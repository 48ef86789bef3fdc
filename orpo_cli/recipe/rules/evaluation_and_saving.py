"""Rules about the times of evaluations and checkpoints, and about the best checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from orpo_cli.errors import Problem
from orpo_cli.recipe.did_you_mean import did_you_mean
from orpo_cli.recipe.eval_save_defaults import eval_steps, eval_strategy, save_steps, save_strategy
from orpo_cli.recipe.schema import Recipe

# Metrics that trl's ORPO trainer measures in an evaluation; the prefix `eval_` is allowed.
METRICS = (
    "loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen",
    "logps/rejected", "logits/chosen", "logits/rejected", "nll_loss", "log_odds_ratio", "log_odds_chosen", "runtime",
    "samples_per_second", "steps_per_second",
)  # fmt: skip
HIGHER_IS_BETTER = ("rewards/accuracies", "rewards/margins", "log_odds_ratio", "log_odds_chosen")
ADD_EVAL = "Add `eval: {test_size: 0.05}` to `dataset`, or"


def evaluation_without_pairs(recipe: Recipe) -> Iterator[Problem]:
    """An evaluation needs held-out pairs."""
    training = recipe.training
    if recipe.dataset.eval is not None:
        return
    needs_evaluation = {
        "eval_strategy": training.eval_strategy in ("steps", "epoch"),
        "eval_on_start": training.eval_on_start,
        "load_best_model_at_end": training.load_best_model_at_end,
    }
    for name in (name for name, needed in needs_evaluation.items() if needed):
        yield Problem(
            "no-eval-data",
            "needs an evaluation, but dataset.eval is not set.",
            f"training.{name}",
            remedy=f"{ADD_EVAL} write {name}: {'no' if name == 'eval_strategy' else 'false'}.",
        )


def eval_settings_unused(recipe: Recipe) -> Iterator[Problem]:
    """Settings of evaluations have no effect without held-out pairs."""
    if recipe.dataset.eval is not None:
        return
    for name in recipe.training.explicit_non_defaults("eval_steps", "eval_delay"):
        yield Problem(
            "eval-settings-unused",
            "has no effect: dataset.eval is not set.",
            f"training.{name}",
            remedy=f"{ADD_EVAL} remove {name}.",
            severity="warning",
        )


def steps_unused(recipe: Recipe) -> Iterator[Problem]:
    """A number of steps is used only with the strategy ``steps``; with ``no`` it is only a warning, so that it can be kept."""
    training = recipe.training
    for kind in ("eval", "save", "logging"):
        strategy, steps = getattr(training, f"{kind}_strategy"), f"{kind}_steps"
        if strategy in (None, "steps") or not recipe.training.explicit_non_defaults(steps):
            continue
        yield Problem(
            "steps-unused",
            f"has no effect with {kind}_strategy: {strategy}.",
            f"training.{steps}",
            remedy=f"Write {kind}_strategy: steps, or remove {steps}.",
            severity="warning" if strategy == "no" else "error",
        )


def save_before_without_state(recipe: Recipe) -> Iterator[Problem]:
    """A run that leaves before its end continues from a checkpoint with the state of the optimizer."""
    training = recipe.training
    if training.save_before is not None and training.save_only_model:
        yield Problem(
            "save-before",
            "has no use with save_only_model: true, because the run could not continue from the checkpoint.",
            "training.save_before",
            remedy="Remove one of the two.",
        )


def save_total_limit_unused(recipe: Recipe) -> Iterator[Problem]:
    """save_total_limit has no effect without checkpoints."""
    if recipe.training.save_strategy == "no" and recipe.training.save_total_limit is not None:
        yield Problem(
            "steps-unused",
            "has no effect with save_strategy: no.",
            "training.save_total_limit",
            remedy="Remove it, or choose another save_strategy.",
            severity="warning",
        )


def fractional_steps(recipe: Recipe) -> Iterator[Problem]:
    """Below 1, the value is a fraction of all steps; from 1 on, an integer number of steps."""
    for name in ("eval_steps", "save_steps", "logging_steps", "warmup_steps"):
        steps = getattr(recipe.training, name)
        if steps is not None and steps > 1 and steps != int(steps):
            yield Problem(
                "fractional-steps",
                f"is {steps}, neither a fraction of all steps (below 1) nor an integer number of steps.",
                f"training.{name}",
                remedy=f"Write {round(steps)}, or a fraction such as 0.1.",
            )


def best_model_strategies(recipe: Recipe) -> Iterator[Problem]:
    """The best checkpoint must be both evaluated and saved."""
    if recipe.dataset.eval is None and recipe.training.save_strategy != "best":
        return  # evaluation_without_pairs reports it
    evaluation, saving = eval_strategy(recipe)[0], save_strategy(recipe)[0]
    if saving == "best" and evaluation == "no":
        yield Problem(
            "best-model-strategies",
            "keeps the best evaluated checkpoint, but there is no evaluation.",
            "training.save_strategy",
            remedy="Add `eval: {test_size: 0.05}` to `dataset` and set eval_strategy to epoch or steps.",
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
    """If both strategies are ``steps``, each checkpoint must coincide with an evaluation."""
    if not recipe.training.load_best_model_at_end or recipe.dataset.eval is None:
        return
    if (eval_strategy(recipe)[0], save_strategy(recipe)[0]) != ("steps", "steps"):
        return
    evaluations, checkpoints = eval_steps(recipe)[0], save_steps(recipe)[0]
    if (evaluations < 1) == (checkpoints < 1) and _exact(checkpoints) % _exact(evaluations) == 0:
        return
    yield Problem(
        "best-model-steps",
        f"needs an evaluation at each checkpoint, but save_steps = {checkpoints:g} is not a multiple of eval_steps = "
        f"{evaluations:g}.",
        "training.load_best_model_at_end",
        remedy=f"Set save_steps to {evaluations:g}, or to a multiple of it.",
    )


def _exact(number: float) -> Fraction:
    return Fraction(str(number))  # in binary floating point, 0.3 is not a multiple of 0.1


def unknown_best_metric(recipe: Recipe) -> Iterator[Problem]:
    """The metric of the best model must be measured."""
    metric = recipe.training.metric_for_best_model
    if metric is None or metric.removeprefix("eval_") in METRICS:
        return
    yield Problem(
        "best-metric-unknown",
        f"is {metric!r}, which evaluations do not measure.",
        "training.metric_for_best_model",
        remedy=did_you_mean(metric.removeprefix("eval_"), METRICS, f"Evaluations measure {', '.join(METRICS[:12])}."),
    )


def best_metric_unused(recipe: Recipe) -> Iterator[Problem]:
    """Only the choice of the best checkpoint and two schedules use the metric."""
    training = recipe.training
    schedule_uses_it = training.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
    if training.load_best_model_at_end or training.save_strategy == "best" or schedule_uses_it:
        return
    for name in recipe.training.explicit_non_defaults("metric_for_best_model", "greater_is_better"):
        yield Problem(
            "best-metric-unused",
            "has no effect: no setting asks for the best checkpoint.",
            f"training.{name}",
            remedy="Add load_best_model_at_end: true, or remove it.",
        )


def wrong_best_metric_direction(recipe: Recipe) -> Iterator[Problem]:
    """A lower loss and a higher accuracy are better."""
    training = recipe.training
    if not training.load_best_model_at_end and training.save_strategy != "best":
        return
    metric = (training.metric_for_best_model or "loss").removeprefix("eval_")
    lower_is_better, higher_is_better = metric in ("loss", "nll_loss"), metric in HIGHER_IS_BETTER
    if (training.greater_is_better is True and lower_is_better) or (
        training.greater_is_better is False and higher_is_better
    ):
        yield Problem(
            "best-metric-direction",
            f"would keep the checkpoint with the {'highest' if lower_is_better else 'lowest'} {metric}, the worst one.",
            "training.greater_is_better",
            remedy="Remove it: the direction follows from the metric.",
        )
