"""Packed scoring of pairs in evaluations: the forward pass of the packed step, with each prompt once and no padding.

An evaluation in training and `orpo eval` both use it where the training has packed steps, so that they give the same digits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from orpo_cli.estimate.batching import CHECKED_PAIRS
from orpo_cli.evaluation.eval_target import EvalTarget, Variant
from orpo_cli.evaluation.preference_scores import (
    MAX_BATCH_TOKENS_GPU,
    BeginProgress,
    PairScorer,
    PairScores,
    PairScoring,
    Progress,
    compute_batches,
    finite_scores,
    score_pairs,
)
from orpo_cli.model.base_model import base_of
from orpo_cli.model.packing_support import packing_obstacle
from orpo_cli.planning.plan import Plan
from orpo_cli.training.allocator import keep_freed_memory
from orpo_cli.training.engine.packed_attention import UnsupportedAttention
from orpo_cli.training.engine.packed_step import Engine, forward_packed
from orpo_cli.training.engine.packing import count_nll_tokens, pack, packed_length, split_into_groups, token_pair
from orpo_cli.training.engine.parity_check import TOLERANCE
from orpo_cli.training.shared_lower_layers import shared_lower_layers

MAX_PACKED_TOKENS = {"cpu": 2048}  # of a micro-batch, for a model without a plan


class PackedScoring(PairScoring):
    """Scoring of pairs in micro-batches of at most ``max_tokens`` packed tokens. A batch is a list of the indices of its pairs."""

    def __init__(
        self, rows: Sequence[Mapping[str, Any]], engine: Engine, max_tokens: int, loss_on_prompt: bool
    ) -> None:
        super().__init__(rows, loss_on_prompt=loss_on_prompt)
        self.engine, self.max_tokens = engine, max_tokens
        self.pairs = [token_pair(row) for row in rows]

    def batches(self, model: Any, device: torch.device, batch_size: int | None = None) -> list[list[Any]]:
        """Micro-batches within the limit of tokens; with ``batch_size``, of not more than so many completions."""
        size = len(self.pairs) if batch_size is None else max(1, batch_size // 2)
        return [
            [start + index for index in group]
            for start in range(0, len(self.pairs), max(1, size))
            for group in split_into_groups(self.pairs[start : start + size], self.max_tokens)
        ]

    def settings(self) -> dict[str, Any]:
        """Path and tokens of a micro-batch."""
        return packed_settings(self.max_tokens, self.loss_on_prompt)

    def score(self, model: Any, batch: list[Any], device: torch.device, *, counted: bool = True) -> None:
        """Compute the values of a micro-batch."""
        pairs = [self.pairs[index] for index in batch]
        packed = pack(pairs, self.loss_on_prompt)
        moved = packed.to(device)
        with torch.no_grad(), self.engine.patched_model(moved, gradients=False):
            output = forward_packed(model, self.engine.head, self.engine.logit_transform, moved)
        if not counted:
            return
        log_probs = output.log_probs.double().cpu()
        lengths = packed.completion_lengths.long().tolist()
        completions = torch.split(log_probs[packed.prediction_indices], lengths)
        nll_lengths = [count_nll_tokens(pair, self.loss_on_prompt) for pair in pairs]
        for number, (index, nll) in enumerate(
            zip(batch, torch.split(log_probs[packed.nll_indices], nll_lengths), strict=True)
        ):
            self.values[0, index] = completions[2 * number].mean()
            self.values[1, index] = completions[2 * number + 1].mean()
            self.values[4, index] = -nll.sum()
        # Sums of the micro-batch, and unknown where the logits themselves would be needed.
        sums = torch.full((2,), torch.nan) if output.logit_sums is None else output.logit_sums.cpu()
        self.values[2:4, batch[0]] = sums.double()


def packed_settings(max_tokens: int, loss_on_prompt: bool) -> dict[str, Any]:
    """``PackedScoring.settings``."""
    return {"path": "packed", "max_tokens": max_tokens, "loss_on_prompt": loss_on_prompt}


def make_scorer(plan: Plan | None, run: Mapping[str, Any]) -> PairScorer:
    """The scorer that computes as the evaluations of a run did (``run``: its run.json).

    For a single model (``plan`` is None) it compares both paths on a few pairs, as a training does before its first step.
    """
    if plan is None:
        return PackedScorer(compare_paths=True)
    if plan.engine.fast_path == "off" or run.get("fast_path") is False:
        return PairScorer()
    return PackedScorer(plan.engine.max_tokens_per_microbatch, plan.training.get("max_length"))


@dataclass(frozen=True)
class PackedScorer(PairScorer):
    """Scorer of pairs in packed rows, or in padded batches for a model that cannot be packed."""

    max_tokens: int | None = None  # of a micro-batch; None: as the device allows
    max_length: int | None = None  # of a sequence; None: unknown
    compare_paths: bool = False  # nobody has compared them for this model yet

    def __call__(
        self,
        model: Any,
        rows: Sequence[dict[str, Any]],
        *,
        batch_size: int | None = None,
        loss_on_prompt: bool = True,
        progress: Progress | None = None,
    ) -> PairScores:
        """Scores of the pairs ``rows``. Raises the errors of ``score_pairs``."""
        options: dict[str, Any] = {"batch_size": batch_size, "loss_on_prompt": loss_on_prompt}
        if not self._packs(model):
            return score_pairs(model, rows, **options, progress=progress)
        max_tokens = self._max_tokens(model.device)
        engine = _make_engine(model, loss_on_prompt, max_tokens)

        def score(rows: Sequence[dict[str, Any]], progress: Progress | None = None) -> PairScores:
            scoring = PackedScoring(rows, engine, max_tokens, loss_on_prompt)
            batches = scoring.batches(model, model.device, batch_size)
            compute_batches(batches, lambda batch: scoring.score(model, batch, model.device), model.device, progress)
            return finite_scores(scoring, rows)

        try:
            if self.compare_paths and not _same_scores(model, rows, score, options):
                return score_pairs(model, rows, **options, progress=progress)
            return score(rows, progress)
        except UnsupportedAttention:
            return score_pairs(model, rows, **options, progress=progress)

    def settings(self, model: Any, *, loss_on_prompt: bool = True) -> dict[str, Any]:
        """The settings of the scoring that a call with these arguments uses."""
        if not self._packs(model):
            return super().settings(model, loss_on_prompt=loss_on_prompt)
        return packed_settings(self._max_tokens(model.device), loss_on_prompt)

    def score_base_and_tuned(
        self,
        target: EvalTarget,
        rows: Sequence[dict[str, Any]],
        begin: BeginProgress,
        *,
        batch_size: int | None = None,
        loss_on_prompt: bool = True,
    ) -> dict[Variant, PairScores] | None:
        """The scores of both, with the layers that no adapter reaches computed once; None where there are none."""
        device = target.model.device
        lower = shared_lower_layers(target.model) if target.disabled_adapter_is_base else None
        if lower is None or not self._packs(target.model):
            return None
        max_tokens, scorings = self._max_tokens(device), dict[Variant, PackedScoring]()
        for variant in target.variants:
            with target.use_variant(variant) as model:  # the engine asks which adapters are active
                engine = _make_engine(model, loss_on_prompt, max_tokens)
                scorings[variant] = PackedScoring(rows, engine, max_tokens, loss_on_prompt)

        def score(batch: list[Any]) -> None:
            with target.use_variant("base") as model, lower.recording():
                scorings["base"].score(model, batch, device)
            with target.use_variant("tuned") as model, lower.reusing():
                scorings["tuned"].score(model, batch, device)

        try:
            if not _shares_exactly(scorings["tuned"], target.model, score):
                return None
            batches, bars = scorings["tuned"].batches(target.model, device, batch_size), [*map(begin, target.variants)]

            def show(done: int, total: int) -> None:
                for bar in filter(None, bars):
                    bar(done, total)

            compute_batches(batches, score, device, show)
        except UnsupportedAttention:
            return None
        return {variant: finite_scores(scoring, rows) for variant, scoring in scorings.items()}

    def _packs(self, model: Any) -> bool:
        base = base_of(model)
        return packing_obstacle(base, self.max_length) is None

    def _max_tokens(self, device: torch.device) -> int:
        return self.max_tokens or MAX_PACKED_TOKENS.get(device.type, MAX_BATCH_TOKENS_GPU)


def _make_engine(model: Any, loss_on_prompt: bool, max_tokens: int) -> Engine:
    if model.device.type == "cpu":
        keep_freed_memory()
    return Engine(model, model.device, beta=0.0, loss_on_prompt=loss_on_prompt, max_tokens=max_tokens)


def _shares_exactly(tuned: PackedScoring, model: Any, score: Callable[[list[Any]], None]) -> bool:
    """Whether the shortest pair gets the same tuned values, bit for bit, with shared layers as without."""
    shortest = [min(range(len(tuned.pairs)), key=lambda index: packed_length(tuned.pairs[index]))]
    tuned.score(model, shortest, model.device)
    alone = tuned.values[:, shortest].clone()
    score(shortest)
    return torch.equal(alone.nan_to_num(), tuned.values[:, shortest].nan_to_num())


def _same_scores(
    model: Any, rows: Sequence[dict[str, Any]], score: Callable[..., PairScores], options: dict[str, Any]
) -> bool:
    """Whether both paths give the shortest pairs the same scores, up to rounding."""
    columns = ("prompt_input_ids", "chosen_answer_ids", "rejected_answer_ids")
    shortest = sorted(rows, key=lambda row: sum(len(row[column]) for column in columns))[:CHECKED_PAIRS]
    packed, padded = (
        torch.cat((scores.chosen, scores.rejected))
        for scores in (score(shortest), score_pairs(model, shortest, **options))
    )
    tolerance = TOLERANCE[model.dtype]
    return torch.allclose(packed, padded, rtol=tolerance, atol=tolerance)
