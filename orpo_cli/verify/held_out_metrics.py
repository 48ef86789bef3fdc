"""Held-out metrics: loss, accuracy and margin of a model on a run's held-out pairs, before and after a merge."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import OrpoError
from orpo_cli.rundir import RunDir

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

METRICS = {"loss": "nll_loss", "accuracy": "rewards/accuracies", "margin": "rewards/margins"}


class HeldOutMetrics:
    """Loss (NLL per token), accuracy and margin of a model on held-out pairs."""

    def __init__(self, rows: list[dict[str, Any]], beta: float) -> None:
        self.rows, self.beta = rows, beta

    @property
    def pairs(self) -> int:
        """Their number."""
        return len(self.rows)

    def __call__(self, model: Any) -> dict[str, float]:
        """The metrics of ``model``, with the number of pairs."""
        from orpo_cli.evaluation.metrics import preference_metrics
        from orpo_cli.evaluation.preference_scores import score_pairs

        metrics = preference_metrics(score_pairs(model, self.rows), self.beta)
        return {"pairs": self.pairs, **{name: metrics[each] for name, each in METRICS.items()}}


def make_held_out_metrics(
    rundir: RunDir | None, tokenizer: PreTrainedTokenizerBase, max_pairs: int, note: Callable[[str], None]
) -> HeldOutMetrics | None:
    """The metrics on the first ``max_pairs`` held-out pairs.

    None if the run has no held-out pairs, or if they cannot be loaded, which is noted.
    """
    from orpo_cli.evaluation.eval_target import EvalTarget
    from orpo_cli.evaluation.held_out_pairs import load_held_out_pairs

    if rundir is None or max_pairs < 1:
        return None
    plan = rundir.read_plan()
    if plan.dataset.eval is None:
        return None
    no_model: Any = None  # the pairs do not depend on the model
    try:
        held_out_pairs = load_held_out_pairs(
            EvalTarget(plan.name, no_model, tokenizer, rundir, plan), max_samples=max_pairs, note=lambda _: None
        )
    except OrpoError as error:
        note(f"the held-out pairs of the run cannot be loaded, so loss and accuracy are not compared: {error.message}")
        return None
    if not held_out_pairs.rows:
        return None
    return HeldOutMetrics(held_out_pairs.rows, float(plan.training["beta"]))
