"""ORPO loss and metrics from log-probabilities (arXiv 2403.07691, Eq. 6 and 7), as trl 1.16's ORPOTrainer computes them.

With p(y) = exp(mean log-probability of the tokens of completion y) and odds(y) = p(y) / (1 - p(y)):

    L = nll_weight * NLL(chosen) - beta * log sigmoid(log odds(chosen) - log odds(rejected)),
    log odds(chosen) - log odds(rejected) = (log p_c - log p_r) - (log(1 - p_c) - log(1 - p_r)).

trl has no nll_weight; it is 1 by default, which leaves every bit of the result. Where pairs have weights w, the means of a step are weighted: sum of w x over sum of w, a token having the weight of its pair.
Weights of 1 leave every bit of the result.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import logsigmoid

from orpo_cli.training.engine.packing import MicroBatch

METRIC_SUMS = (
    "nll", "log_odds_ratio", "log_odds_chosen", "accuracies", "logps/chosen", "logps/rejected",
)  # fmt: skip


class StepTotals(NamedTuple):
    """Denominators of a step's means: NLL tokens, and pairs, of all micro-batches and processes, each times its weight."""

    nll_tokens: float
    num_pairs: float


def log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) for x < 0 without cancellation; the two forms meet at -log 2."""
    return torch.where(x < -0.6931471805599453, torch.log1p(-torch.exp(x)), torch.log(-torch.expm1(x)))


def loss_share(
    log_probs: torch.Tensor, batch: MicroBatch, totals: StepTotals, beta: float, nll_weight: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The part of the step's loss that a micro-batch contributes, and its part of the sums of ``METRIC_SUMS``, detached.

    ``log_probs`` (N,) are those of ``batch.targets``. The parts of a step's micro-batches add up to its loss: the weighted
    mean NLL over ``totals.nll_tokens``, minus beta times the mean log odds ratio over ``totals.num_pairs``.
    """
    sums = torch.zeros(2 * batch.num_pairs, dtype=log_probs.dtype, device=log_probs.device)
    sums = sums.index_add(0, batch.sequence_ids, log_probs[batch.prediction_indices])
    means = sums / batch.completion_lengths.to(log_probs.dtype)
    chosen, rejected = means[0::2], means[1::2]
    log_odds = (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))
    ratio = logsigmoid(log_odds)
    nll = -_weighted(log_probs[batch.nll_indices], batch.nll_weights).sum()
    ratio = _weighted(ratio, batch.pair_weights)
    loss = nll_weight * nll / totals.nll_tokens - beta * ratio.sum() / totals.num_pairs
    with torch.no_grad():
        correct = (chosen > rejected).to(log_probs.dtype)
        means_of = (_weighted(each, batch.pair_weights) for each in (log_odds, correct, chosen, rejected))
        metric_sums = (nll, ratio.sum(), *(each.sum() for each in means_of))
        return loss, torch.stack([each.detach() for each in metric_sums]).double()


def _weighted(values: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    return values if weights is None else values * weights.to(values.dtype)


def step_metrics(sums: list[float], totals: StepTotals, beta: float) -> dict[str, float]:
    """The means of a step under trl's names. ``sums`` follow ``METRIC_SUMS``."""
    nll, ratio, log_odds, correct, chosen, rejected = sums
    pairs = totals.num_pairs
    return {
        "rewards/chosen": beta * chosen / pairs,
        "rewards/rejected": beta * rejected / pairs,
        "rewards/accuracies": correct / pairs,
        "rewards/margins": beta * (chosen - rejected) / pairs,
        "logps/rejected": rejected / pairs,
        "logps/chosen": chosen / pairs,
        "nll_loss": nll / totals.nll_tokens,
        "log_odds_ratio": ratio / pairs,
        "log_odds_chosen": log_odds / pairs,
    }
