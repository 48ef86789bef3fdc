"""Scores of trials on the held-out pairs: their evaluations during training, compared pair by pair.

The margin here is the mean log-probability per token of the chosen completion minus that of the rejected one. The margin that TRL
logs is this one times beta, so that it does not compare trials with another beta.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import Any

from orpo_cli.json_files import is_number
from orpo_cli.report.run_history import RunHistory
from orpo_cli.rundir import RunDir
from orpo_cli.statistics import (
    Interval,
    PairedComparison,
    compare_margins,
    mean_interval,
    wilson_interval,
)

ACCURACY, CHOSEN, REJECTED = "eval_rewards/accuracies", "eval_logps/chosen", "eval_logps/rejected"
SIGNIFICANCE = 0.05


class Metric(StrEnum):
    """Metric by which trials are compared; more is better."""

    ACCURACY = "accuracy"
    MARGIN = "margin"


@dataclass(frozen=True)
class Score:
    """One evaluation of a trial. ``fraction``: of its steps. ``margins``: of each pair by name; empty where they are not recorded."""

    step: int
    fraction: float
    pairs: int | None
    accuracy: float | None
    margin: float | None
    loss: float | None
    margins: Mapping[str, float] = field(default_factory=dict)

    def value(self, metric: Metric) -> float | None:
        """The value of the metric."""
        return self.accuracy if metric is Metric.ACCURACY else self.margin

    def interval(self, metric: Metric) -> Interval | None:
        """95% interval: Wilson for the accuracy, Student's t for the margin; None where the pairs are not known."""
        if metric is Metric.MARGIN:
            return mean_interval(list(self.margins.values()))
        if self.accuracy is None or not self.pairs:
            return None
        return wilson_interval(self.accuracy * self.pairs, self.pairs)

    def on_pairs(self, names: Set[str]) -> Score:
        """The score on some of the pairs; the loss of these is not known."""
        margins = {name: margin for name, margin in self.margins.items() if name in names}
        accuracy = fmean(margin > 0 for margin in margins.values())
        return replace(
            self, pairs=len(margins), accuracy=accuracy, margin=fmean(margins.values()), loss=None, margins=margins
        )

    def sort_key(self, metric: Metric) -> tuple[float, float, float]:
        """More is better: the metric, of equal accuracies the margin, then the loss."""
        values = self.value(metric), self.margin, None if self.loss is None else -self.loss
        first, second, third = (float("-inf") if each is None else each for each in values)
        return first, second, third

    def as_json(self, metric: Metric) -> dict[str, Any]:
        """The evaluation in sweep.json."""
        interval = self.interval(metric)
        return {
            "step": self.step,
            "metric": metric.value,
            "value": self.value(metric),
            "interval": None if interval is None else list(interval),
            "pairs": self.pairs,
            "accuracy": self.accuracy,
            "margin": self.margin,
            "loss": self.loss,
        }


@dataclass(frozen=True)
class TrialProgress:
    """How far a trial has trained, and its scores; without that of the base model."""

    step: int = 0
    steps: int | None = None  # planned
    scores: tuple[Score, ...] = ()

    def score_until(self, fraction: float) -> Score | None:
        """The last score after at most this fraction of the steps."""
        return next((each for each in reversed(self.scores) if each.fraction <= fraction + 1e-9), None)


class ProgressReader:
    """Reader of the progress of one trial, which reads its files again when they have changed."""

    def __init__(self, run: Path) -> None:
        self.rundir = RunDir(run)
        self.progress = TrialProgress()
        self._seen: tuple[Any, ...] = ()

    def read(self) -> TrialProgress:
        """The progress until now."""
        files = tuple(_size_and_time(each) for each in (self.rundir.metrics, self.rundir.eval_scores))
        if files != self._seen:
            self._seen, self.progress = files, read_progress(self.rundir.root)
        return self.progress


def read_progress(run: Path) -> TrialProgress:
    """The progress of the run in a directory; that of a damaged one as far as it can be read."""
    history = RunHistory(run)
    steps = next((each["steps"] for each in reversed(history.events) if is_number(each.get("steps"))), None)
    margins = {record.get("step"): _margins(record) for record in history.scores}
    scores = [_score(record, steps, margins.get(record["step"], {})) for record in history.evals if record["step"] > 0]
    step = max([history.last_train.get("step", 0), *(each.step for each in scores)])
    return TrialProgress(int(step), None if steps is None else int(steps), tuple(scores))


def final_score(run: Path) -> Score | None:
    """The score of the model that a finished run has saved; None without an evaluation.

    That of the last evaluation, or of the best checkpoint, where the run has loaded it at the end.
    """
    history, scores = RunHistory(run), read_progress(run).scores
    best = str(history.run.get("best_checkpoint") or "").rpartition("-")[2]
    if history.values.get("training.load_best_model_at_end") and best.isdecimal():
        return next((each for each in scores if each.step == int(best)), None)
    return scores[-1] if scores else None


def compare(first: Score, second: Score) -> PairedComparison | None:
    """The second score against the first one, on the pairs of both; None where they have no scores of the same pairs."""
    common = [name for name in first.margins if name in second.margins]
    if not common:
        return None
    return compare_margins([first.margins[name] for name in common], [second.margins[name] for name in common])


def is_worse(score: Score, best: Score, metric: Metric, comparisons: int = 1) -> bool:
    """Whether a score lies below the best one by more than chance explains (95%).

    Paired where both have scores of the same pairs: the exact test of McNemar for the accuracy, a test of the mean difference for
    the margin. Otherwise both intervals must be apart. ``comparisons``: among how many scores the best was chosen; the largest
    of many equal ones is large by chance, so the significance is divided by their number (Bonferroni).
    """
    comparison = compare(best, score)
    if comparison is not None:
        if metric is Metric.ACCURACY:
            lower, p_value = comparison.lost > comparison.won, comparison.p_value
        else:
            lower, p_value = comparison.margin_change < 0, _margin_p_value(best, score)
        return lower and p_value < SIGNIFICANCE / max(1, comparisons)
    intervals = score.interval(metric), best.interval(metric)
    return intervals[0] is not None and intervals[1] is not None and intervals[0][1] < intervals[1][0]


def _margin_p_value(first: Score, second: Score) -> float:
    """Two-sided p-value that the mean difference of the margins of the same pairs is 0 (normal approximation)."""
    changes = [second.margins[name] - margin for name, margin in first.margins.items() if name in second.margins]
    if len(changes) < 2:
        return 1.0
    error = stdev(changes) / math.sqrt(len(changes))
    return 2 * NormalDist().cdf(-abs(fmean(changes)) / error) if error else float(not any(changes))


def _score(record: Mapping[str, Any], steps: float | None, margins: Mapping[str, float]) -> Score:
    numbers = {name: float(value) for name, value in record.items() if is_number(value)}
    chosen, rejected = numbers.get(CHOSEN), numbers.get(REJECTED)
    margin = chosen - rejected if chosen is not None and rejected is not None else None
    pairs: Any = record.get("eval_pairs")
    return Score(
        step=int(record["step"]),
        fraction=record["step"] / steps if steps else 1.0,
        pairs=int(pairs) if is_number(pairs) else len(margins) or None,
        accuracy=numbers.get(ACCURACY),
        margin=fmean(margins.values()) if margins else margin,
        loss=numbers.get("eval_loss"),
        margins=margins,
    )


def _margins(record: Mapping[str, Any]) -> dict[str, float]:
    columns = [record.get(name) for name in ("pairs", "chosen", "rejected")]
    names, chosen, rejected = (column if isinstance(column, list) else [] for column in columns)
    rows = zip(map(str, names), chosen, rejected, strict=False)
    return {name: better - worse for name, better, worse in rows if is_number(better) and is_number(worse)}


def _size_and_time(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
