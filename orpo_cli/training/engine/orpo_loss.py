"""ORPO's loss and metrics from log-probabilities (arXiv 2403.07691, Eq. 6 and 7), as trl 1.16 computes them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import logsigmoid

from orpo_cli.training.engine.packing import MicroBatch

SUMS = (
    "nll", "log_odds_ratio", "log_odds_chosen", "accuracies", "logps/chosen", "logps/rejected",
)  # fmt: skip


class Totals(NamedTuple):
    """What the means of a step are taken over: tokens of the NLL, and pairs, of all micro-batches and processes."""

    tokens: int
    pairs: int


def log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) for x < 0 without cancellation; the two forms meet at -log 2."""
    return torch.where(x < -0.6931471805599453, torch.log1p(-torch.exp(x)), torch.log(-torch.expm1(x)))


def step_share(
    logps: torch.Tensor, batch: MicroBatch, totals: Totals, beta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The share of a micro-batch in the loss of its step, and its share in the sums named by ``SUMS``, detached.

    ``logps`` (N,) are the log-probabilities of ``batch.targets``. The shares of a step's micro-batches add up to its loss:
    the mean NLL over ``totals.tokens``, minus beta times the mean log odds ratio over ``totals.pairs``.
    """
    sums = torch.zeros(2 * batch.pairs, dtype=logps.dtype, device=logps.device)
    means = sums.index_add(0, batch.sequences, logps[batch.members]) / batch.counts.to(logps.dtype)
    chosen, rejected = means[0::2], means[1::2]
    log_odds = (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))
    ratio = logsigmoid(log_odds)
    nll = -logps[batch.nll].sum()
    loss = nll / totals.tokens - beta * ratio.sum() / totals.pairs
    with torch.no_grad():
        better = (chosen > rejected).to(logps.dtype)
        parts = (nll, ratio.sum(), log_odds.sum(), better.sum(), chosen.sum(), rejected.sum())
        return loss, torch.stack([part.detach() for part in parts]).double()


def metrics(sums: list[float], totals: Totals, beta: float) -> dict[str, float]:
    """trl's names for the means of a step. ``sums`` follow ``SUMS``."""
    nll, ratio, log_odds, better, chosen, rejected = sums
    pairs = totals.pairs
    return {
        "rewards/chosen": beta * chosen / pairs,
        "rewards/rejected": beta * rejected / pairs,
        "rewards/accuracies": better / pairs,
        "rewards/margins": beta * (chosen - rejected) / pairs,
        "logps/rejected": rejected / pairs,
        "logps/chosen": chosen / pairs,
        "nll_loss": nll / totals.tokens,
        "log_odds_ratio": ratio / pairs,
        "log_odds_chosen": log_odds / pairs,
    }
