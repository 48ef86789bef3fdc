"""Bootstrap interval of a mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from orpo_cli.statistics import Interval

_BLOCK = 1_000_000  # resampled values that are in memory at once


def bootstrap_interval(values: Sequence[float], *, resamples: int = 10_000, seed: int = 0) -> Interval | None:
    """Percentile bootstrap 95% interval of the mean; None for fewer than two values.

    Makes no assumption about the distribution. For differences of pairs it is the paired bootstrap. The seed is fixed, so that
    a report of the same runs has the same numbers.
    """
    if len(values) < 2:
        return None
    sample, generator = numpy.asarray(values, dtype=float), numpy.random.default_rng(seed)
    block = max(1, _BLOCK // len(sample))
    means = [
        sample[generator.integers(len(sample), size=(min(block, resamples - start), len(sample)))].mean(axis=1)
        for start in range(0, resamples, block)
    ]
    low, high = numpy.quantile(numpy.concatenate(means), (0.025, 0.975))
    return float(low), float(high)
