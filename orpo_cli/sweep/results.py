"""Results of a sweep: the winner among the finished trials, and which other trials it cannot be told apart from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orpo_cli.statistics import PairedComparison
from orpo_cli.sweep.record import State, SweepDir, TrialState
from orpo_cli.sweep.scores import Metric, Score, compare, final_score, is_worse


@dataclass(frozen=True)
class Result:
    """A finished trial with its score. ``comparison``: with the winner on the same pairs; None where there is none."""

    state: TrialState
    score: Score
    comparison: PairedComparison | None = None
    is_worse: bool = False  # than the winner, by more than chance explains

    @property
    def name(self) -> str:
        """The name of the trial."""
        return self.state.trial.name


@dataclass(frozen=True)
class Ranking:
    """The finished trials that have a value of the metric, the winner first.

    ``common_pairs``: where the trials hold out different pairs, the number of those that all hold out. The trials are compared on
    these; without any there is no result. None where all hold out the same pairs.
    ``left_out``: the names of trials that cannot be compared, because they have no scores of these pairs.
    """

    results: list[Result]
    metric: Metric
    common_pairs: int | None = None
    left_out: Sequence[str] = ()

    def warnings(self) -> list[str]:
        """What limits the comparison, in sentences."""
        lines = []
        if self.common_pairs is not None:
            compared = f"they are compared on the {self.common_pairs} that all hold out"
            lines.append(
                "the trials hold out different pairs: " + (compared if self.common_pairs else "no winner is chosen")
            )
        if self.left_out:
            lines.append(f"not compared, without scores of the same held-out pairs: {', '.join(self.left_out)}")
        return lines

    def findings(self) -> list[str]:
        """What the sweep has found, in sentences."""
        lines = []
        if self.results:
            best = self.results[0]
            lines.append(f"best: {best.name}, {score_text(best.score, self.metric)} at step {best.score.step}")
        if alike := [each.name for each in self.results[1:] if not each.is_worse]:
            pairs = f"{best.score.pairs} held-out pairs" if best.score.pairs else "these held-out pairs"
            lines.append(
                f"{pairs} do not tell it apart from {len(alike)} other trial{'s' if len(alike) > 1 else ''} (95%): "
                f"{', '.join(alike[:4])}{' …' if len(alike) > 4 else ''}"
            )
        return lines


def rank(sweep: SweepDir, states: Sequence[TrialState], metric: Metric) -> Ranking:
    """Rank the finished trials. Of equal accuracies, the larger margin is better.

    A trial without scores of the pairs counts with its own values, if it holds out as many pairs as all others.
    """
    scored = [
        Result(state, score)
        for state in states
        if state.state is State.FINISHED
        and (score := final_score(sweep.run(state.trial))) is not None
        and score.value(metric) is not None
    ]
    pairs = [each.score.pair_scores.keys() for each in scored if each.score.pair_scores]
    common = None
    if any(each != pairs[0] for each in pairs):
        common = set(pairs[0]).intersection(*pairs)
        if not common:
            return Ranking([], metric, 0)
    compared_pairs = len(pairs[0]) if pairs and common is None else None
    left_out = [
        each.name
        for each in scored
        if pairs and not each.score.pair_scores and (compared_pairs is None or each.score.pairs != compared_pairs)
    ]
    scored = [each for each in scored if each.name not in left_out]
    if common is not None:
        scored = [replace(each, score=each.score.on_pairs(common)) for each in scored]
    ranked = sorted(scored, key=lambda each: each.score.sort_key(metric), reverse=True)
    best, others = ranked[:1], ranked[1:]
    compared = [
        replace(
            each,
            comparison=compare(best[0].score, each.score),
            is_worse=is_worse(each.score, best[0].score, metric, len(others)),
        )
        for each in others
    ]
    return Ranking([*best, *compared], metric, None if common is None else len(common), left_out)


def score_text(score: Score, metric: Metric) -> str:
    """``accuracy 0.906 [0.810, 0.956] of 64 pairs``."""
    value, interval = score.value(metric), score.interval(metric)
    text = f"{metric.value} {'?' if value is None else f'{value:.3f}'}"
    if interval is not None:
        text += f" [{interval[0]:.3f}, {interval[1]:.3f}]"
    return f"{text} of {score.pairs} pairs" if score.pairs else text


def winner_document(best: Result, metric: Metric, recipe: Path | None, run: Path) -> dict[str, Any]:
    """The winner in sweep.json and in the document of --json. ``recipe``: winner.yaml; None where it is not written."""
    return {
        "trial": best.name,
        "values": best.state.trial.values,
        "run": str(run),
        "recipe": None if recipe is None else str(recipe),
        **best.score.as_json(metric),
    }
