"""When there is evaluation and when a checkpoint, where the recipe does not say: what its other values ask for.

The rules judge by this and the plan decides by it, so both see the same run.
"""

from __future__ import annotations

from orpo_cli.recipe.schema import Recipe

SCHEDULES_WITHOUT_WARMUP = ("constant", "reduce_lr_on_plateau", "greedy")  # schedules that the library gives no warm-up


def eval_strategy(recipe: Recipe) -> tuple[str, str]:
    """The evaluation strategy and the reason for it."""
    training = recipe.training
    if training.eval_strategy is not None:
        return training.eval_strategy, "as the recipe says"
    if recipe.dataset.eval is None:
        return "no", "no held-out pairs"
    if training.eval_steps is not None:
        return "steps", "eval_steps is given"
    return "epoch", "held-out pairs"


def save_strategy(recipe: Recipe) -> tuple[str, str]:
    """The checkpoint strategy and the reason for it."""
    training = recipe.training
    if training.save_strategy is not None:
        return training.save_strategy, "as the recipe says"
    if training.save_steps is not None:
        return "steps", "save_steps is given"
    evaluation = eval_strategy(recipe)[0]
    if training.load_best_model_at_end and evaluation == "steps":
        return "steps", "the best model is one that was evaluated and saved"
    return "epoch", "a checkpoint an epoch"


def eval_steps(recipe: Recipe) -> tuple[float, str]:
    """Steps between evaluations (below 1: a share of all steps), where the strategy is ``steps``."""
    training = recipe.training
    if training.eval_steps is not None:
        return training.eval_steps, "as the recipe says"
    if training.logging_steps is not None:
        return training.logging_steps, "as logging_steps, the library's default"
    if training.save_steps is not None:
        return training.save_steps, "as save_steps"
    return 0.1, "a tenth of all steps"


def save_steps(recipe: Recipe) -> tuple[float, str]:
    """Steps between checkpoints (below 1: a share of all steps), where the strategy is ``steps``."""
    training = recipe.training
    if training.save_steps is not None:
        return training.save_steps, "as the recipe says"
    if training.load_best_model_at_end and eval_strategy(recipe)[0] == "steps":
        return eval_steps(recipe)[0], "as eval_steps, so that the best model is one that was saved"
    return 500, "the library's default"
