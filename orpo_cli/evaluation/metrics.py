"""Preference metrics of scored pairs under TRL's names, with 95% confidence intervals."""

from __future__ import annotations

import math
from functools import partial

import torch

from orpo_cli.evaluation.preference_scores import PairScores
from orpo_cli.statistics import Interval, effective_count, mean_interval, weighted_mean_interval, wilson_interval


def preference_metrics(scores: PairScores, beta: float) -> dict[str, float]:
    """Metrics that TRL's ORPOTrainer logs, over all pairs.

    ``rewards/accuracies``: fraction of pairs whose chosen completion has the higher mean log-probability per token.
    ``rewards/margins``: beta times the mean difference of ``logps/chosen`` and ``logps/rejected`` (nats per token).
    ``log_odds_chosen``: mean log odds ratio, the argument of the sigmoid in Eq. 7 of arXiv 2403.07691; ``log_odds_ratio``: mean
    log of that sigmoid. ``nll_loss``: over every token of prompt and chosen completion, as in training. Where the pairs have
    weights, all means are weighted, as those of a training step.
    """
    log_odds = (scores.chosen - scores.rejected) - (_log1mexp(scores.chosen) - _log1mexp(scores.rejected))
    mean = partial(weighted_mean, weights=scores.weights)
    return {
        "rewards/accuracies": mean((scores.chosen > scores.rejected).double()),
        "rewards/margins": beta * mean(scores.chosen - scores.rejected),
        "rewards/chosen": beta * mean(scores.chosen),
        "rewards/rejected": beta * mean(scores.rejected),
        "logps/chosen": mean(scores.chosen),
        "logps/rejected": mean(scores.rejected),
        "log_odds_chosen": mean(log_odds),
        "log_odds_ratio": mean(torch.nn.functional.logsigmoid(log_odds)),
        "nll_loss": scores.nll / scores.nll_tokens,
    }


def weighted_mean(values: torch.Tensor, weights: torch.Tensor | None) -> float:
    """Mean of ``values``, weighted unless ``weights`` is None."""
    return values.mean().item() if weights is None else ((values * weights).sum() / weights.sum()).item()


def intervals(scores: PairScores, beta: float) -> dict[str, Interval | None]:
    """95% intervals of the accuracy (Wilson) and of the mean margin (Student's t; None for a single pair).

    With weights, the number of pairs is the effective one, which is smaller.
    """
    margins = margins_of(scores).tolist()
    correct = scores.chosen > scores.rejected
    if scores.weights is None:
        accuracy, margin = wilson_interval(int(correct.sum()), len(correct)), mean_interval(margins)
    else:
        effective = effective_pairs(scores)
        accuracy = wilson_interval(weighted_mean(correct.double(), scores.weights) * effective, effective)
        margin = weighted_mean_interval(margins, scores.weights.tolist())
    return {"rewards/accuracies": accuracy, **margin_intervals(margin, beta)}


def effective_pairs(scores: PairScores) -> float:
    """The number of pairs; with weights the effective one, which is smaller."""
    return len(scores.chosen) if scores.weights is None else effective_count(scores.weights.tolist())


def margins_of(scores: PairScores) -> torch.Tensor:
    """``logps/chosen`` minus ``logps/rejected`` of each pair, in nats per token: the margin without beta."""
    return scores.chosen - scores.rejected


def margin_intervals(margin: Interval | None, beta: float) -> dict[str, Interval | None]:
    """The interval of the margin, and that of TRL's ``rewards/margins``, which is beta times as large."""
    return {"margin": margin, "rewards/margins": margin and (beta * margin[0], beta * margin[1])}


def accuracies_by_length(scores: PairScores) -> dict[str, float]:
    """Accuracy on the pairs whose chosen completion is longer, and on those whose is shorter, each with its number of pairs.

    A model that always prefers the longer (or the shorter) completion has 1 on one group and 0 on the other. Pairs of equal
    length (in tokens, end token included) are in neither; a group without pairs has no accuracy.
    """
    assert scores.longer is not None
    correct, found = scores.chosen > scores.rejected, dict[str, float]()
    for name, group in (("longer", scores.longer > 0), ("shorter", scores.longer < 0)):
        found[f"pairs_chosen_{name}"] = int(group.sum())
        if group.any():
            weights = None if scores.weights is None else scores.weights[group]
            found[f"accuracies_chosen_{name}"] = weighted_mean(correct[group].double(), weights)
    return found


def _log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) for x < 0, without cancellation on either side of -ln 2."""
    return torch.where(x < -math.log(2), torch.log1p(-torch.exp(x)), torch.log(-torch.expm1(x)))
