"""Statistics of held-out pairs, compared with published values, hand calculations and known distributions."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpo_cli.statistics import compare_margins, mcnemar_p_value, mean_interval, student_t_quantile, wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(8, 10, 0.49016, 0.94331), (0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (54, 60, 0.79853, 0.95340)],
)
def test_wilson_intervals_are_the_published_ones(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 500).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_wilson_intervals_contain_the_proportion_and_stay_in_bounds(case: tuple[int, int]) -> None:
    low, high = wilson_interval(*case)
    assert 0 <= low <= case[0] / case[1] + 1e-12
    assert case[0] / case[1] - 1e-12 <= high <= 1


def test_the_interval_of_a_mean_is_students_and_needs_two_values() -> None:
    low, high = mean_interval([1.0, 2.0, 3.0, 4.0]) or (0.0, 0.0)
    half = 3.182446 * math.sqrt(5 / 3) / 2
    assert (low, high) == pytest.approx((2.5 - half, 2.5 + half), abs=1e-6)
    assert mean_interval([1.0]) is None


def test_the_interval_of_few_values_contains_the_mean_as_often_as_it_says() -> None:
    generator, covered = random.Random(2), 0
    for _ in range(4000):
        low, high = mean_interval([generator.gauss(1.0, 1.0) for _ in range(5)]) or (0.0, 0.0)
        covered += low <= 1.0 <= high
    assert 0.935 <= covered / 4000 <= 0.965  # a normal interval has 0.88, a percentile bootstrap 0.84


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (9, 2.2622), (30, 2.0423), (120, 1.9799)]
)
def test_quantiles_of_students_t_are_those_of_the_tables(degrees: int, quantile: float) -> None:
    assert student_t_quantile(degrees) == pytest.approx(quantile, abs=5e-5)
    assert student_t_quantile(degrees + 0.5) < student_t_quantile(degrees)


def test_quantiles_of_students_t_go_over_to_the_normal_one() -> None:
    assert student_t_quantile(99_999) == pytest.approx(1.959964, abs=3e-5)
    assert student_t_quantile(1e7) == pytest.approx(1.959964, abs=1e-6)


@pytest.mark.parametrize(
    ("won", "lost", "expected"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 2 / 2**5),
        (0, 5, 2 / 2**5),
        (8, 2, 2 * (1 + 10 + 45) / 2**10),
        (3, 3, 1.0),
        (21, 0, 2 / 2**21),
        (5, 12, 2 * 9402 / 2**17),  # 9402 = sum of C(17, k) for k = 0..5; binom.test(5, 17) of R: 0.1435
    ],
)
def test_mcnemar_is_the_exact_binomial_test(won: int, lost: int, expected: float) -> None:
    assert mcnemar_p_value(won, lost) == pytest.approx(expected, rel=1e-12)


def test_mcnemar_of_very_many_pairs_is_exact_and_near_the_normal_approximation() -> None:
    p_value = mcnemar_p_value(5200, 4800)  # z = (400 - 1) / sqrt(10000)
    normal = math.erfc(3.99 / math.sqrt(2))
    assert p_value == pytest.approx(normal, rel=0.02)
    assert mcnemar_p_value(9_000, 0) == 0.0  # 2**-8999 is below the smallest float
    assert mcnemar_p_value(5201, 4801) == pytest.approx(p_value, rel=0.02)  # too many for the exact test
    assert mcnemar_p_value(500_000, 500_000) == 1.0


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_symmetric_and_a_probability(won: int, lost: int) -> None:
    assert mcnemar_p_value(won, lost) == mcnemar_p_value(lost, won)
    assert 0 < mcnemar_p_value(won, lost) <= 1


def test_margins_are_compared_pair_by_pair() -> None:
    comparison = compare_margins([0.5, -0.1, 0.0, -2.0, 1.0], [0.6, 0.2, 0.3, -1.9, -0.5])
    assert (comparison.pairs, comparison.won, comparison.lost) == (5, 2, 1)  # a margin of 0 is not preferred rightly
    assert (comparison.first_accuracy, comparison.second_accuracy) == (0.4, 0.6)
    assert comparison.p_value == 1.0
    assert comparison.margin_change == pytest.approx((0.1 + 0.3 + 0.3 + 0.1 - 1.5) / 5)
    low, high = comparison.margin_interval or (0.0, 0.0)
    assert low < comparison.margin_change < high


def test_a_constant_change_of_scattered_margins_is_certain() -> None:
    before = [-30.0, -5.0, 0.1, 4.0, 25.0]
    comparison = compare_margins(before, [margin + 0.5 for margin in before])
    assert comparison.margin_interval == pytest.approx((0.5, 0.5))
