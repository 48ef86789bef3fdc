"""Held-out metrics: NLL, accuracy and margin of a model on a run's held-out pairs, before and after a merge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import OrpoError
from orpo_cli.planning.plan import Plan
from orpo_cli.rundir import RunDir

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from orpo_cli.evaluation.held_out_pairs import HeldOutPairs
    from orpo_cli.evaluation.preference_scores import PairScorer, Progress

METRICS = {"nll_loss": "nll_loss", "accuracy": "rewards/accuracies", "margin": "rewards/margins"}


class HeldOutMetrics:
    """NLL per token, accuracy and margin of a model on held-out pairs."""

    def __init__(self, held_out_pairs: HeldOutPairs, plan: Plan, scorer: PairScorer) -> None:
        self.rows, self.available, self.scorer = held_out_pairs.rows, held_out_pairs.available, scorer
        self.beta = float(plan.training["beta"])
        self.loss_on_prompt = bool(plan.training.get("loss_on_prompt", True))

    @property
    def pairs(self) -> int:
        """Their number."""
        return len(self.rows)

    def __call__(self, model: Any, progress: Progress | None = None) -> dict[str, float]:
        """The metrics of ``model``, with the number of pairs, and of those that the run holds out. ``progress`` receives how much is scored."""
        from orpo_cli.evaluation.metrics import preference_metrics

        scores = self.scorer(model, self.rows, loss_on_prompt=self.loss_on_prompt, progress=progress)
        metrics = preference_metrics(scores, self.beta)
        counts = {"pairs": self.pairs, "available": self.available}
        return {**counts, **{name: metrics[each] for name, each in METRICS.items()}}


def make_held_out_metrics(
    rundir: RunDir | None, tokenizer: PreTrainedTokenizerBase, max_pairs: int, note: Callable[[str], None]
) -> HeldOutMetrics | None:
    """The metrics on the first ``max_pairs`` held-out pairs, computed as `orpo eval` does, in micro-batches for the CPU.

    None if the run has no held-out pairs, or if they cannot be loaded, which is noted.
    """
    from orpo_cli.evaluation.eval_target import EvalTarget
    from orpo_cli.evaluation.held_out_pairs import load_held_out_pairs
    from orpo_cli.training.packed_scoring import PackedScorer, make_scorer

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
        note(f"the held-out pairs of the run cannot be loaded, so NLL and accuracy are not compared: {error.message}")
        return None
    if not held_out_pairs.rows:
        return None
    scorer = make_scorer(plan, rundir.read_run())
    if isinstance(scorer, PackedScorer):  # the plan's micro-batches are those of the device that trained
        scorer = replace(scorer, max_tokens=None)
    return HeldOutMetrics(held_out_pairs, plan, scorer)
