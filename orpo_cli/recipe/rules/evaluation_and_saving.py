"""Rules about when there is evaluation and when a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.schema import Recipe


def evaluation_without_data(recipe: Recipe) -> Iterator[Problem]:
    """There is something to evaluate on."""
    if recipe.dataset.eval is None and recipe.training.eval_strategy in ("steps", "epoch"):
        yield Problem(
            "no-eval-data",
            "asks for evaluation, but dataset.eval names no pairs.",
            "training.eval_strategy",
            remedy="Add `eval: {test_size: 0.05}` to `dataset`, or remove eval_strategy.",
        )


def best_model_needs_both(recipe: Recipe) -> Iterator[Problem]:
    """The best checkpoint can only be one that was both evaluated and saved."""
    training = recipe.training
    if not training.load_best_model_at_end:
        return
    strategies = (training.eval_strategy, training.save_strategy)
    if strategies[1] == "best" or (strategies[0] == strategies[1] and strategies[0] in ("steps", "epoch")):
        return
    yield Problem(
        "best-model-strategies",
        f"needs eval_strategy and save_strategy to be the same, but they are {strategies[0] or 'not given'} and "
        f"{strategies[1] or 'not given'}.",
        "training.load_best_model_at_end",
        remedy="Set both to `steps` or both to `epoch`.",
    )


RULES = (evaluation_without_data, best_model_needs_both)
