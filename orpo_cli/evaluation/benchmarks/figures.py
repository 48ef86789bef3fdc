"""Benchmark figures: means with 95% intervals, and the comparison of two models on the same questions.

A metric whose values are all 0 or 1 is an accuracy: Wilson's interval, and the exact McNemar test between two models.
Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from orpo_cli.statistics import mcnemar_p_value, mean_interval, wilson_interval

Values = Mapping[str, Sequence[float]]  # metric → its value for each question, in their order


def summarize(values: Values) -> dict[str, Any]:
    """The mean of each metric, its interval and how many values it has, as a JSON object."""
    found: dict[str, Any] = {metric: fmean(each) for metric, each in values.items()}
    found["intervals"] = {
        metric: wilson_interval(sum(each), len(each)) if _is_accuracy(each) else mean_interval(each)
        for metric, each in values.items()
    }
    return found | {"counts": {metric: len(each) for metric, each in values.items()}}


def compare(first: Values, second: Values) -> dict[str, Any]:
    """The second model minus the first one, as a JSON object.

    Accuracies have ``won`` and ``lost``, the questions that only the second or only the first model gets right, and the
    p-value of the exact McNemar test. ``intervals``: of the mean difference, paired.
    """
    changes: dict[str, Any] = {}
    details: dict[str, dict[str, Any]] = {"intervals": {}, "won": {}, "lost": {}, "p_values": {}}
    for metric, before in first.items():
        after = second[metric]
        differences = [new - old for old, new in zip(before, after, strict=True)]
        changes[metric] = fmean(differences)
        details["intervals"][metric] = mean_interval(differences)
        if _is_accuracy(before) and _is_accuracy(after):
            won, lost = (sum(each == sign for each in differences) for sign in (1, -1))
            details["won"][metric], details["lost"][metric] = won, lost
            details["p_values"][metric] = mcnemar_p_value(won, lost)
    return changes | details


def _is_accuracy(values: Sequence[float]) -> bool:
    return all(value in (0, 1) for value in values)
