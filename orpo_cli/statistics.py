"""Statistics of held-out pairs: intervals of an accuracy and a mean, and paired comparisons of two models on the same pairs.

Paired comparisons are much sharper than two separate intervals, because most of the spread is between pairs, not models.
Imports no torch, and numpy only for the bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

Interval = tuple[float, float]

_Z = NormalDist().inv_cdf(0.975)
MAX_EXACT = 10_000  # pairs that decide an exact test
_BLOCK = 1_000_000  # resampled values that are in memory at once


def wilson_interval(successes: float, trials: float) -> Interval:
    """Wilson 95% interval of a proportion; valid near 0 and 1, where the normal interval has no width."""
    proportion, z2 = successes / trials, _Z * _Z
    center = (proportion + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z / (1 + z2 / trials) * math.sqrt(proportion * (1 - proportion) / trials + z2 / (4 * trials * trials))
    return max(0.0, center - half), min(1.0, center + half)


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Normal 95% interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    mean, half = fmean(values), _Z * stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def weighted_mean_interval(values: Sequence[float], weights: Sequence[float]) -> Interval | None:
    """Normal 95% interval of the weighted mean (ratio estimator); None for fewer than two values.

    With equal weights it is ``mean_interval``.
    """
    count, total = len(values), math.fsum(weights)
    if count < 2:
        return None
    pairs = list(zip(values, weights, strict=True))
    mean = math.fsum(weight * value for value, weight in pairs) / total
    spread = math.fsum((weight * (value - mean)) ** 2 for value, weight in pairs)
    half = _Z * math.sqrt(spread * count / (count - 1)) / total
    return mean - half, mean + half


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


def bootstrap_interval(values: Sequence[float], *, resamples: int = 10_000, seed: int = 0) -> Interval | None:
    """Percentile bootstrap 95% interval of the mean; None for fewer than two values.

    Makes no assumption about the distribution. For differences of pairs it is the paired bootstrap. The seed is fixed, so that
    a report of the same runs has the same numbers.
    """
    if len(values) < 2:
        return None
    import numpy

    sample, generator = numpy.asarray(values, dtype=float), numpy.random.default_rng(seed)
    block = max(1, _BLOCK // len(sample))
    means = [
        sample[generator.integers(len(sample), size=(min(block, resamples - start), len(sample)))].mean(axis=1)
        for start in range(0, resamples, block)
    ]
    low, high = numpy.quantile(numpy.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


@dataclass(frozen=True)
class PairedComparison:
    """Comparison of a second model with a first one on the same pairs. A pair is won where only the second model prefers rightly."""

    pairs: int
    first_accuracy: float
    second_accuracy: float
    won: int
    lost: int
    p_value: float  # exact McNemar
    margin_change: (
        float  # mean of (chosen - rejected) of the second model minus that of the first one, in nats per token
    )
    margin_interval: Interval | None  # paired bootstrap, 95%


def compare_margins(first: Sequence[float], second: Sequence[float]) -> PairedComparison:
    """Compare two models by their margins (mean log-probability of chosen minus that of rejected) on the same pairs.

    ``first`` and ``second`` are in the same order of pairs, and not empty.
    """
    both = list(zip(first, second, strict=True))
    won = sum(before <= 0 < after for before, after in both)
    lost = sum(after <= 0 < before for before, after in both)
    changes = [after - before for before, after in both]
    return PairedComparison(
        pairs=len(both),
        first_accuracy=sum(before > 0 for before, _ in both) / len(both),
        second_accuracy=sum(after > 0 for _, after in both) / len(both),
        won=won,
        lost=lost,
        p_value=mcnemar_p_value(won, lost),
        margin_change=fmean(changes),
        margin_interval=bootstrap_interval(changes),
    )
