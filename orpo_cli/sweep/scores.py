"""Scores of trials on the held-out pairs: their evaluations during training, compared pair by pair.

The margin here is not multiplied by beta, as the one that TRL logs, which does not compare trials with another beta.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from statistics import NormalDist
from typing import Any

from orpo_cli.json_files import is_number
from orpo_cli.report.pair_scores import Scores, compare_scores, scores_of_evaluation
from orpo_cli.report.run_history import RunHistory
from orpo_cli.rundir import RunDir
from orpo_cli.statistics import (
    Interval,
    PairedComparison,
    effective_count,
    weighted_mean,
    weighted_mean_interval,
    weighted_standard_error,
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
    """One evaluation of a trial. ``fraction``: of its steps. ``pair_scores``: empty where they are not recorded."""

    step: int
    fraction: float
    pairs: int | None
    accuracy: float | None
    margin: float | None
    loss: float | None
    pair_scores: Scores = field(default_factory=dict)

    def value(self, metric: Metric) -> float | None:
        """The value of the metric."""
        return self.accuracy if metric is Metric.ACCURACY else self.margin

    def interval(self, metric: Metric) -> Interval | None:
        """95% interval: Wilson for the accuracy, Student's t for the margin; None where the pairs are not known."""
        margins, weights = margins_and_weights(self.pair_scores)
        if metric is Metric.MARGIN:
            return weighted_mean_interval(margins, weights)
        if self.accuracy is None or not self.pairs:
            return None
        pairs = effective_count(weights) if weights else self.pairs
        return wilson_interval(self.accuracy * pairs, pairs)

    def on_pairs(self, names: Set[str]) -> Score:
        """The score on some of the pairs; the loss of these is not known."""
        scores = {name: score for name, score in self.pair_scores.items() if name in names}
        margins, weights = margins_and_weights(scores)
        accuracy = weighted_mean([margin > 0 for margin in margins], weights)
        return replace(
            self,
            pairs=len(scores),
            accuracy=accuracy,
            margin=weighted_mean(margins, weights),
            loss=None,
            pair_scores=scores,
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
    """Reader of the progress of one trial, which reads each of its files again when that file has changed.

    The metrics change at every logged step, and the scores, which have a line of all pairs, only at an evaluation.
    """

    def __init__(self, run: Path) -> None:
        self.rundir = RunDir(run)
        self.progress = TrialProgress()
        self._pair_scores: dict[Any, Scores] = {}
        self._seen: tuple[tuple[int, int] | None, ...] = (None, None)

    def read(self) -> TrialProgress:
        """The progress until now."""
        files = tuple(_size_and_time(each) for each in (self.rundir.metrics, self.rundir.eval_scores))
        if files != self._seen:
            history = RunHistory(self.rundir.root)
            if files[1] != self._seen[1]:
                self._pair_scores = _pair_scores_by_step(history)
            self._seen, self.progress = files, _progress(history, self._pair_scores)
        return self.progress


def read_progress(run: Path) -> TrialProgress:
    """The progress of the run in a directory; that of a damaged one as far as it can be read."""
    history = RunHistory(run)
    return _progress(history, _pair_scores_by_step(history))


def _pair_scores_by_step(history: RunHistory) -> dict[Any, Scores]:
    return {record.get("step"): scores_of_evaluation(record) for record in history.scores}


def _progress(history: RunHistory, pair_scores: Mapping[Any, Scores]) -> TrialProgress:
    steps = next((each["steps"] for each in reversed(history.events) if is_number(each.get("steps"))), None)
    evaluations = [record for record in history.evals if record["step"] > 0]
    scores = [_score(record, steps, pair_scores.get(record["step"], {})) for record in evaluations]
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
    return compare_scores(first.pair_scores, second.pair_scores)


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
            lower, p_value = comparison.margin_change < 0, _margin_p_value(best.pair_scores, score.pair_scores)
        return lower and p_value < SIGNIFICANCE / max(1, comparisons)
    intervals = score.interval(metric), best.interval(metric)
    return intervals[0] is not None and intervals[1] is not None and intervals[0][1] < intervals[1][0]


def margins_and_weights(scores: Scores) -> tuple[list[float], list[float]]:
    """Margins and weights of the pairs, in their order."""
    return [each.margin for each in scores.values()], [each.weight for each in scores.values()]


def _margin_p_value(first: Scores, second: Scores) -> float:
    """Two-sided p-value that the mean difference of the margins of the same pairs is 0 (normal approximation)."""
    common = {name: score for name, score in second.items() if name in first}
    if len(common) < 2:
        return 1.0
    changes = [score.margin - first[name].margin for name, score in common.items()]
    weights = [each.weight for each in common.values()]
    mean, error = weighted_mean(changes, weights), weighted_standard_error(changes, weights)
    return 2 * NormalDist().cdf(-abs(mean) / error) if error else float(not any(changes))


def _score(record: Mapping[str, Any], steps: float | None, pair_scores: Scores) -> Score:
    numbers = {name: float(value) for name, value in record.items() if is_number(value)}
    chosen, rejected = numbers.get(CHOSEN), numbers.get(REJECTED)
    margin = chosen - rejected if chosen is not None and rejected is not None else None
    if pair_scores:
        margin = weighted_mean(*margins_and_weights(pair_scores))
    pairs: Any = record.get("eval_pairs")
    return Score(
        step=int(record["step"]),
        fraction=record["step"] / steps if steps else 1.0,
        pairs=int(pairs) if is_number(pairs) else len(pair_scores) or None,
        accuracy=numbers.get(ACCURACY),
        margin=margin,
        loss=numbers.get("eval_loss"),
        pair_scores=pair_scores,
    )


def _size_and_time(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
