"""Figures of a run's held-out pairs, for a merge to be judged by."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import OrpoError
from orpo_cli.rundir import RunDir

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

METRICS = {"loss": "nll_loss", "accuracy": "rewards/accuracies", "margin": "rewards/margins"}


def make_held_out_metrics(
    rundir: RunDir | None, tokenizer: PreTrainedTokenizerBase, pairs: int, note: Callable[[str], None]
) -> Callable[[Any], dict[str, float]] | None:
    """What gives a model's loss (NLL a token), accuracy and margin on the first ``pairs`` that the run held out.

    None where it held none out, or where they are not at hand any more, which ``note`` hears.
    """
    from orpo_cli.evaluation.eval_target import EvalTarget
    from orpo_cli.evaluation.held_out_pairs import load_held_out_pairs
    from orpo_cli.evaluation.metrics import preference_metrics
    from orpo_cli.evaluation.preference_scores import score_pairs

    if rundir is None or pairs < 1:
        return None
    plan = rundir.read_plan()
    if plan.dataset.eval is None:
        return None
    nobody: Any = None  # the pairs do not depend on the model
    try:
        held_out_pairs = load_held_out_pairs(
            EvalTarget(plan.name, nobody, tokenizer, rundir, plan), max_samples=pairs, note=lambda _: None
        )
    except OrpoError as error:
        note(
            f"the held-out pairs of the run are not at hand, so loss and accuracy on them are left out: {error.message}"
        )
        return None
    if not held_out_pairs.rows:
        return None
    beta = float(plan.training["beta"])

    def figures(model: Any) -> dict[str, float]:
        metrics = preference_metrics(score_pairs(model, held_out_pairs.rows), beta)
        return {"pairs": len(held_out_pairs.rows), **{name: metrics[each] for name, each in METRICS.items()}}

    return figures
