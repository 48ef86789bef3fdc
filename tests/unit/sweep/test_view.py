"""Lines and tables of a sweep, at several widths."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console as RichConsole

from orpo_cli.report.console import Console
from orpo_cli.report.pair_scores import PairScore
from orpo_cli.sweep.record import State, TrialState
from orpo_cli.sweep.results import Result
from orpo_cli.sweep.scores import Metric, Score, TrialProgress, compare
from orpo_cli.sweep.trials import name_trials
from orpo_cli.sweep.view import SweepDisplay, result_table


def score(right: int) -> Score:
    scores = {str(index): PairScore(1.0 if index < right else -0.5, 0.0) for index in range(64)}
    return Score(32, 1.0, 64, right / 64, sum(each.margin for each in scores.values()) / 64, 1.0, scores)


def trials() -> list[TrialState]:
    combinations = [
        {"training.learning_rate": rate, "training.beta": beta} for rate in (1e-5, 5e-5) for beta in (0.1, 0.5)
    ]
    states = [TrialState(each, State.FINISHED, seconds=65.0) for each in name_trials(combinations)]
    states[2].state, states[2].reason = State.STOPPED, "accuracy 0.3 at step 8, below 0.9 of another"
    states[3].state, states[3].reason, states[3].seconds = State.FAILED, "the disk is full", 3700.0
    return states


def progress(trial: object) -> TrialProgress:
    return TrialProgress(32, 32, (score(60),))


def table(width: int | None, metric: Metric = Metric.ACCURACY) -> list[str]:
    states = trials()
    best, other = score(60), score(54)
    ranked = [Result(states[1], best), Result(states[0], other, compare(best, other), True)]
    output = io.StringIO()
    RichConsole(file=output, width=width or 300).print(result_table(states, ranked, progress, metric, width))
    return [line.rstrip() for line in output.getvalue().splitlines()]


def test_the_best_trial_is_first_and_others_are_compared_with_it() -> None:
    lines = table(None)
    assert lines[0].split() == [
        "trial",
        "state",
        "accuracy",
        "margin",
        "step",
        "accuracy",
        "95%",
        "against",
        "the",
        "best",
        "time",
    ]
    assert [line.split()[0] for line in lines[1:]] == [
        "learning_rate=1e-5,beta=0.5", "learning_rate=1e-5,beta=0.1", "learning_rate=5e-5,beta=0.1",
        "learning_rate=5e-5,beta=0.5",
    ]  # fmt: skip
    assert "finished" in lines[1]
    assert "0.938" in lines[1]
    assert "best" in lines[1]
    assert "0 won, 6 lost, p 0.031" in lines[2]
    assert lines[4].endswith("1:01:40")


@pytest.mark.parametrize("width", [160, 100, 80, 60, 40])
def test_a_narrow_terminal_loses_columns_and_no_digits(width: int) -> None:
    lines = table(width)
    complete = {word for line in table(None) for word in line.split()}
    assert max(map(len, lines)) <= width
    cells = [word for line in lines for word in line.split()]
    names = {word for word in complete if "=" in word}
    parts = {part for name in names for part in (name, *(f"{value}," for value in name.split(",")), *name.split(","))}
    assert set(cells) <= complete | parts
    shown = "".join(cell for cell in cells if "=" in cell)
    assert all(name in shown for name in names)


def test_margins_are_compared_by_their_difference() -> None:
    assert "-0.141 [" in table(None, Metric.MARGIN)[2]


def test_of_equal_accuracies_the_larger_margin_is_the_best_so_far(capfd: pytest.CaptureFixture[str]) -> None:
    states = trials()
    with SweepDisplay(Console(), states, progress, Metric.ACCURACY, 4) as display:
        display.evaluated(states[0], replace(score(0), margin=-1.0))
        display.evaluated(states[1], replace(score(0), margin=-0.7))
    assert capfd.readouterr().err.splitlines()[-1].endswith("learning_rate=1e-5,beta=0.5)")


def test_lines_of_a_pipe(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    states = trials()
    with SweepDisplay(Console(), states, progress, Metric.ACCURACY, 4) as display:
        display.started(states[0])
        states[0].steps = 32
        display.evaluated(states[0], score(54))
        display.evaluated(states[1], score(60))
        for state in states:
            display.ended(state)
    lines = capfd.readouterr().err.splitlines()
    assert lines[1].startswith("learning_rate=1e-5,beta=0.1: step 32/32: accuracy 0.844 [0.736, 0.913] of 64 pairs")
    assert lines[2].endswith("(best so far: 0.938, learning_rate=1e-5,beta=0.5)")
    assert lines[3] == "learning_rate=1e-5,beta=0.1: finished in 1 min 05 s"
    assert lines[5] == "learning_rate=5e-5,beta=0.1: stopped: accuracy 0.3 at step 8, below 0.9 of another"
    assert lines[6] == "warning: learning_rate=5e-5,beta=0.5: failed: the disk is full"
