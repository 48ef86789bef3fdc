"""Results of a sweep: which trials are compared, and what is said about the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orpo_cli.sweep.record import State, SweepDir, TrialState
from orpo_cli.sweep.results import Ranking, rank
from orpo_cli.sweep.scores import Metric
from orpo_cli.sweep.trials import Trial

PAIRS = [f"heldout.jsonl:{number}" for number in range(1, 5)]


@pytest.fixture
def sweep(tmp_path: Path) -> SweepDir:
    """A sweep whose trial ``whole`` prefers three of four pairs rightly."""
    sweep = SweepDir(tmp_path)
    write_trial(sweep, "whole", 0.75, PAIRS)
    return sweep


def write_trial(sweep: SweepDir, name: str, accuracy: float, pairs: list[str] | None, count: int = 4) -> None:
    """A finished run. ``pairs``: None for one without scores of pairs."""
    run = sweep.trials / name
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"status": "finished"}))
    line: dict[str, Any] = {"kind": "eval", "step": 8, "eval_rewards/accuracies": accuracy, "eval_pairs": count}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    if pairs is not None:
        rejected = [-2.0 if index < accuracy * len(pairs) else -0.5 for index in range(len(pairs))]
        scores = {"step": 8, "pairs": pairs, "chosen": [-1.0] * len(pairs), "rejected": rejected}
        (run / "eval_scores.jsonl").write_text(json.dumps(scores) + "\n")


def ranking(sweep: SweepDir) -> Ranking:
    names = sorted(each.name for each in sweep.trials.iterdir())
    return rank(sweep, [TrialState(Trial(each, {}), State.FINISHED) for each in names], Metric.ACCURACY)


@pytest.mark.parametrize(("accuracy", "order"), [(0.5, ["whole", "bare"]), (1.0, ["bare", "whole"])])
def test_a_trial_without_scores_of_pairs_counts_with_its_own_accuracy(
    sweep: SweepDir, accuracy: float, order: list[str]
) -> None:
    write_trial(sweep, "bare", accuracy, None)
    found = ranking(sweep)
    assert [each.name for each in found.results] == order
    assert found.results[1].comparison is None
    assert (found.common_pairs, found.warnings()) == (None, [])


def test_a_trial_without_scores_and_with_another_number_of_pairs_is_left_out_and_named(sweep: SweepDir) -> None:
    write_trial(sweep, "bare", 1.0, None, count=3)
    found = ranking(sweep)
    assert [each.name for each in found.results] == ["whole"]
    assert found.warnings() == ["not compared, without scores of the same held-out pairs: bare"]


def test_where_the_trials_hold_out_different_pairs_one_without_scores_is_left_out(sweep: SweepDir) -> None:
    write_trial(sweep, "other", 1.0, [*PAIRS[:2], "heldout.jsonl:5", "heldout.jsonl:6"])
    write_trial(sweep, "bare", 1.0, None)
    found = ranking(sweep)
    assert ({each.name for each in found.results}, found.common_pairs) == ({"whole", "other"}, 2)
    assert len(found.warnings()) == 2


def test_trials_that_all_have_no_scores_are_ranked_by_their_accuracies(tmp_path: Path) -> None:
    sweep = SweepDir(tmp_path)
    for name, accuracy in (("low", 0.5), ("high", 1.0)):
        write_trial(sweep, name, accuracy, None)
    found = ranking(sweep)
    assert [each.name for each in found.results] == ["high", "low"]
    assert found.left_out == []
