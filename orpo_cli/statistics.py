"""Statistics of held-out pairs: intervals of an accuracy and a mean, and paired comparisons of two models on the same pairs.

Paired comparisons are much sharper than two separate intervals, because most of the spread is between pairs, not models.
Imports neither torch nor numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

Interval = tuple[float, float]

_Z = NormalDist().inv_cdf(0.975)
MAX_EXACT = 10_000  # pairs that decide an exact test
MIN_PAIRS_OF_LIMIT = 10


def wilson_interval(successes: float, trials: float) -> Interval:
    """Wilson 95% interval of a proportion; valid near 0 and 1, where the normal interval has no width."""
    proportion, z2 = successes / trials, _Z * _Z
    center = (proportion + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z / (1 + z2 / trials) * math.sqrt(proportion * (1 - proportion) / trials + z2 / (4 * trials * trials))
    return max(0.0, center - half), min(1.0, center + half)


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """The weighted mean of at least one value."""
    return math.fsum(weight * value for value, weight in zip(values, weights, strict=True)) / math.fsum(weights)


def effective_count(weights: Sequence[float]) -> float:
    """The effective number of weighted values, (sum of w)² / sum of w² (Kish): their number where all weights are equal."""
    return math.fsum(weights) ** 2 / math.fsum(weight * weight for weight in weights)


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Student's t 95% interval of the mean; None for fewer than two values. Of differences of pairs it is the paired one.

    For few values a normal interval and a percentile bootstrap are too narrow: of 10 normal values they contain the mean in 92%
    and 90% of samples, this one in 95%.
    """
    return weighted_mean_interval(values, [1.0] * len(values))


def weighted_mean_interval(values: Sequence[float], weights: Sequence[float]) -> Interval | None:
    """Student's t 95% interval of the weighted mean (ratio estimator); None for fewer than two values.

    The degrees of freedom are the effective number of values minus 1.
    """
    if len(values) < 2:
        return None
    mean = weighted_mean(values, weights)
    half = student_t_quantile(effective_count(weights) - 1) * weighted_standard_error(values, weights)
    return mean - half, mean + half


def weighted_standard_error(values: Sequence[float], weights: Sequence[float]) -> float:
    """Standard error of the weighted mean (ratio estimator) of at least two values."""
    count, mean = len(values), weighted_mean(values, weights)
    spread = math.fsum((weight * (value - mean)) ** 2 for value, weight in zip(values, weights, strict=True))
    return math.sqrt(spread * count / (count - 1)) / math.fsum(weights)


@lru_cache
def student_t_quantile(degrees: float) -> float:
    """The 0.975 quantile of Student's t distribution, for any number of degrees of freedom, at least 1.

    With t = sqrt(degrees) * tan(angle), the density is proportional to cos(angle) ** (degrees - 1).
    """
    degrees = max(1.0, degrees)
    if degrees > 1e5:
        return _Z  # the difference is below 3e-5
    scale = 2 * math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)

    def probability(angle: float) -> float:  # of -t to t, by Simpson's rule
        ordinates: list[float] = [math.cos(angle * step / 200) ** (degrees - 1) for step in range(201)]
        return (
            scale * angle / 600 * (ordinates[0] + 4 * sum(ordinates[1::2]) + 2 * sum(ordinates[2:-1:2]) + ordinates[-1])
        )

    low, high = 0.0, min(math.pi / 2, 15 / math.sqrt(degrees))
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if probability(middle) < 0.95 else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def mcnemar_p_value(won: int, lost: int) -> float:
    """Exact two-sided McNemar test of two accuracies on the same pairs: the p-value that both models are equally accurate.

    ``won``: pairs that only the second model prefers rightly; ``lost``: those that only the first does. The other pairs do not
    count. Under the hypothesis ``won`` is binomial with n = won + lost and p = 1/2 (McNemar 1947; exact form: Fay 2010).
    """
    trials = won + lost
    if trials > MAX_EXACT:  # exact integers would take seconds; the normal approximation has three digits there
        return math.erfc(max(0.0, abs(won - lost) - 1) / math.sqrt(2 * trials))
    tail = term = 1
    for k in range(min(won, lost)):
        term = term * (trials - k) // (k + 1)  # the binomial coefficient of k + 1
        tail += term
    return min(1.0, 2 * tail / (1 << trials))  # both are exact integers of any size


@dataclass(frozen=True)
class PairedComparison:
    """Comparison of a second model with a first one on the same pairs. A pair is won where only the second model prefers rightly.

    Where pairs have weights, the accuracies and the change of the margin are weighted means; ``won``, ``lost`` and the p-value
    count pairs.
    """

    pairs: int
    first_accuracy: float
    second_accuracy: float
    won: int
    lost: int
    p_value: float  # exact McNemar
    margin_change: (
        float  # mean of (chosen - rejected) of the second model minus that of the first one, in nats per token
    )
    margin_interval: Interval | None  # paired Student's t, 95%


def compare_margins(
    first: Sequence[float], second: Sequence[float], weights: Sequence[float] | None = None
) -> PairedComparison:
    """Compare two models by their margins (mean log-probability of chosen minus that of rejected) on the same pairs.

    ``first``, ``second`` and ``weights`` (of the pairs; None: all are 1) are in the same order of pairs, and not empty.
    """
    weights = [1.0] * len(first) if weights is None else weights
    both = list(zip(first, second, strict=True))
    won = sum(before <= 0 < after for before, after in both)
    lost = sum(after <= 0 < before for before, after in both)
    changes = [after - before for before, after in both]
    return PairedComparison(
        pairs=len(both),
        first_accuracy=weighted_mean([before > 0 for before in first], weights),
        second_accuracy=weighted_mean([after > 0 for after in second], weights),
        won=won,
        lost=lost,
        p_value=mcnemar_p_value(won, lost),
        margin_change=weighted_mean(changes, weights),
        margin_interval=weighted_mean_interval(changes, weights),
    )


def accuracy_limit_note(base_accuracy: float, pairs: float) -> str | None:
    """Where the base model prefers all pairs but one rightly, its accuracy cannot grow; otherwise None.

    ``pairs``: with weights their effective number. Few pairs say nothing of the kind: of one, none may be right.
    """
    if pairs < MIN_PAIRS_OF_LIMIT or base_accuracy * pairs < pairs - 1.001:
        return None
    return "the base model is right on nearly all pairs before the training, so accuracy cannot show a gain: compare the margins"
