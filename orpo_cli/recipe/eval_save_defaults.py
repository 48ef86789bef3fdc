"""Defaults of the evaluation and checkpoint strategies, derived from other values of the recipe.

The rules and the plan both use these functions, so they agree about the run.
"""

from __future__ import annotations

from orpo_cli.recipe.schema import Recipe

SCHEDULES_WITHOUT_WARMUP = ("constant", "reduce_lr_on_plateau", "greedy")


def eval_strategy(recipe: Recipe) -> tuple[str, str]:
    """The evaluation strategy and its reason."""
    training = recipe.training
    if training.eval_strategy is not None:
        return training.eval_strategy, "as the recipe says"
    if recipe.dataset.eval is None:
        return "no", "no held-out pairs"
    if training.eval_steps is not None:
        return "steps", "eval_steps is set"
    return "epoch", "held-out pairs"


def save_strategy(recipe: Recipe) -> tuple[str, str]:
    """The checkpoint strategy and its reason."""
    training = recipe.training
    if training.save_strategy is not None:
        return training.save_strategy, "as the recipe says"
    if training.save_steps is not None:
        return "steps", "save_steps is set"
    evaluation = eval_strategy(recipe)[0]
    if training.load_best_model_at_end and evaluation == "steps":
        return "steps", "the best model must be evaluated and saved"
    return "epoch", "one checkpoint per epoch"


def eval_steps(recipe: Recipe) -> tuple[float, str]:
    """Steps between evaluations (below 1: a fraction of all steps) if the strategy is ``steps``, and the reason."""
    training = recipe.training
    if training.eval_steps is not None:
        return training.eval_steps, "as the recipe says"
    if training.logging_steps is not None:
        return training.logging_steps, "equal to logging_steps, the default of the library"
    if training.save_steps is not None:
        return training.save_steps, "equal to save_steps"
    return 0.1, "10 % of all steps"


def save_steps(recipe: Recipe) -> tuple[float, str]:
    """Steps between checkpoints (below 1: a fraction of all steps) if the strategy is ``steps``, and the reason."""
    training = recipe.training
    if training.save_steps is not None:
        return training.save_steps, "as the recipe says"
    if training.load_best_model_at_end and eval_strategy(recipe)[0] == "steps":
        return eval_steps(recipe)[0], "equal to eval_steps, so that the best model is saved"
    return 500, "the default of the library"
