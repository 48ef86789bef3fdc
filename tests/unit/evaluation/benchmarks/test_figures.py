"""Benchmark figures: means, intervals, and the paired comparison of two models."""

from __future__ import annotations

import pytest

from orpo_cli.evaluation.benchmarks.figures import compare, summarize
from orpo_cli.statistics import mcnemar_p_value, mean_interval, wilson_interval

BASE = {"acc": [True, False, False, False, True], "f1": [0.5, 0.0, 1.0, 0.25, 0.5]}
TUNED = {"acc": [True, True, True, True, False], "f1": [0.5, 0.5, 1.0, 0.25, 0.75]}


def test_accuracies_have_wilson_intervals_and_other_means_normal_ones() -> None:
    found = summarize(BASE)
    assert (found["acc"], found["f1"]) == pytest.approx((0.4, 0.45))
    assert found["intervals"] == {"acc": wilson_interval(2, 5), "f1": mean_interval(BASE["f1"])}
    assert found["counts"] == {"acc": 5, "f1": 5}


def test_two_models_are_compared_question_by_question() -> None:
    change = compare(BASE, TUNED)
    assert (change["acc"], change["f1"]) == pytest.approx((0.4, 0.15))
    assert (change["won"], change["lost"]) == ({"acc": 3}, {"acc": 1})
    assert change["p_values"] == {"acc": mcnemar_p_value(3, 1)}
    low, high = change["intervals"]["f1"]
    assert low < 0.15 < high
