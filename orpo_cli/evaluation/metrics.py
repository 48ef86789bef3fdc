"""Preference metrics of scored pairs under TRL's names, with 95% confidence intervals."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch

from orpo_cli.evaluation.preference_scores import PairScores

Interval = tuple[float, float]

_Z = NormalDist().inv_cdf(0.975)


def preference_metrics(scores: PairScores, beta: float) -> dict[str, float]:
    """Metrics that TRL's ORPOTrainer logs, over all pairs.

    ``rewards/accuracies``: fraction of pairs whose chosen completion has the higher mean log-probability per token.
    ``rewards/margins``: beta times the mean difference of ``logps/chosen`` and ``logps/rejected`` (nats per token).
    ``log_odds_chosen``: mean log odds ratio, the argument of the sigmoid in Eq. 7 of arXiv 2403.07691; ``log_odds_ratio``: mean
    log of that sigmoid. ``nll_loss``: over every token of prompt and chosen completion, as in training.
    """
    log_odds = (scores.chosen - scores.rejected) - (_log1mexp(scores.chosen) - _log1mexp(scores.rejected))
    return {
        "rewards/accuracies": (scores.chosen > scores.rejected).double().mean().item(),
        "rewards/margins": beta * (scores.chosen - scores.rejected).mean().item(),
        "rewards/chosen": beta * scores.chosen.mean().item(),
        "rewards/rejected": beta * scores.rejected.mean().item(),
        "logps/chosen": scores.chosen.mean().item(),
        "logps/rejected": scores.rejected.mean().item(),
        "log_odds_chosen": log_odds.mean().item(),
        "log_odds_ratio": torch.nn.functional.logsigmoid(log_odds).mean().item(),
        "nll_loss": scores.nll / scores.nll_tokens,
    }


def intervals(scores: PairScores, beta: float) -> dict[str, Interval | None]:
    """95% intervals of the accuracy (Wilson) and of the mean margin (normal; None for a single pair)."""
    return {
        "rewards/accuracies": wilson(int((scores.chosen > scores.rejected).sum()), len(scores.chosen)),
        "rewards/margins": mean_interval(beta * (scores.chosen - scores.rejected)),
    }


def margin_change_interval(before: PairScores, after: PairScores, beta: float) -> Interval | None:
    """95% interval of the change of the mean margin, paired: much narrower than the intervals of the two margins."""
    return mean_interval(beta * ((after.chosen - after.rejected) - (before.chosen - before.rejected)))


def wilson(successes: int, trials: int) -> Interval:
    """Wilson 95% interval of a proportion; valid near 0 and 1, where the normal interval has no width."""
    proportion, z2 = successes / trials, _Z * _Z
    center = (proportion + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z / (1 + z2 / trials) * math.sqrt(proportion * (1 - proportion) / trials + z2 / (4 * trials * trials))
    return max(0.0, center - half), min(1.0, center + half)


def mean_interval(values: torch.Tensor) -> Interval | None:
    """Normal 95% interval of the mean of ``values`` (n,); None where n is 1."""
    if len(values) < 2:
        return None
    half = _Z * values.std().item() / math.sqrt(len(values))
    return values.mean().item() - half, values.mean().item() + half


def _log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) for x < 0, without cancellation on either side of -ln 2."""
    return torch.where(x < -math.log(2), torch.log1p(-torch.exp(x)), torch.log(-torch.expm1(x)))
