"""Results of a sweep: the winner among the finished trials, and which other trials it cannot be told apart from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


def rank(sweep: SweepDir, states: Sequence[TrialState], metric: Metric) -> list[Result]:
    """The finished trials that have a value of the metric, the winner first. Of equal accuracies, the larger margin is better."""
    scored = [
        Result(state, score)
        for state in states
        if state.state is State.FINISHED
        and (score := final_score(sweep.run(state.trial))) is not None
        and score.value(metric) is not None
    ]
    ranked = sorted(scored, key=lambda each: each.score.sort_key(metric), reverse=True)
    if not ranked:
        return []
    best = ranked[0].score
    others = [
        Result(each.state, each.score, compare(best, each.score), is_worse(each.score, best, metric, len(ranked) - 1))
        for each in ranked[1:]
    ]
    return [ranked[0], *others]


def score_text(score: Score, metric: Metric) -> str:
    """``accuracy 0.906 [0.810, 0.956] of 64 pairs``."""
    value, interval = score.value(metric), score.interval(metric)
    text = f"{metric.value} {'?' if value is None else f'{value:.3f}'}"
    if interval is not None:
        text += f" [{interval[0]:.3f}, {interval[1]:.3f}]"
    return f"{text} of {score.pairs} pairs" if score.pairs else text


def winner_lines(ranked: Sequence[Result], metric: Metric) -> list[str]:
    """What the sweep has found, in sentences."""
    best = ranked[0]
    lines = [f"best: {best.name}, {score_text(best.score, metric)} at step {best.score.step}"]
    alike = [each.name for each in ranked[1:] if not each.is_worse]
    if alike:
        pairs = f"{best.score.pairs} held-out pairs" if best.score.pairs else "these held-out pairs"
        lines.append(
            f"{pairs} do not tell it apart from {len(alike)} other trial{'s' if len(alike) > 1 else ''} (95%): "
            f"{', '.join(alike[:4])}{' …' if len(alike) > 4 else ''}"
        )
    return lines


def winner_document(best: Result, metric: Metric, recipe: Path, run: Path) -> dict[str, Any]:
    """The winner in sweep.json and in the document of --json."""
    return {
        "trial": best.name,
        "values": best.state.trial.values,
        "run": str(run),
        "recipe": str(recipe),
        **best.score.as_json(metric),
    }
