"""Record of a sweep: what may change when it is continued."""

from __future__ import annotations

from pathlib import Path

import pytest

from orpo_cli.errors import UsageError
from orpo_cli.sweep.record import (
    Definition,
    State,
    SweepDir,
    TrialState,
    merge_trials,
    refuse_changes,
)
from orpo_cli.sweep.trials import name_trials

VALUES = [{"training.beta": 0.1}, {"training.beta": 0.5}]


def definition(**changes: object) -> Definition:
    values: dict[str, object] = {
        "recipe": "recipe.yaml", "overrides": [], "recipe_values": {"training": {"max_steps": 8, "beta": 1.0}},
        "space": {"training.beta": [0.1, 0.5]}, "random": None, "sampler": None, "seed": None, "metric": "accuracy",
        "early_stop": True, "stop_from": 0.25,
    }  # fmt: skip
    return Definition(**{**values, **changes})  # type: ignore[arg-type]


def test_states_are_read_back(tmp_path: Path) -> None:
    sweep = SweepDir(tmp_path)
    states = [TrialState(each) for each in name_trials(VALUES)]
    states[0].state, states[0].seconds, states[0].evaluation = State.FINISHED, 12.34, {"value": 0.9}
    states[1].state, states[1].reason = State.STOPPED, "below"
    sweep.write(definition(), states, None)
    before, read = sweep.read()
    refuse_changes(before, definition(), tmp_path)
    assert [(each.trial, each.state, each.reason) for each in read] == [
        (states[0].trial, State.FINISHED, None),
        (states[1].trial, State.STOPPED, "below"),
    ]
    assert (read[0].seconds, read[0].evaluation) == (12.3, {"value": 0.9})


def test_a_sweep_can_be_extended_and_its_trials_keep_their_names(tmp_path: Path) -> None:
    earlier = [TrialState(each, State.FINISHED) for each in name_trials(VALUES)]
    merged = merge_trials(earlier, [{"training.beta": 0.2}, *VALUES], tmp_path)
    assert [(each.trial.name, each.state) for each in merged] == [
        ("beta=0.1", State.FINISHED),
        ("beta=0.5", State.FINISHED),
        ("beta=0.2", State.WAITING),
    ]


def test_a_trial_cannot_be_taken_out(tmp_path: Path) -> None:
    earlier = [TrialState(each) for each in name_trials(VALUES)]
    with pytest.raises(UsageError, match=r"does not ask for: beta=0.5") as caught:
        merge_trials(earlier, VALUES[:1], tmp_path)
    assert "--output DIR" in (caught.value.remedy or "")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"recipe_values": {"training": {"max_steps": 16, "beta": 1.0}}}, "training.max_steps was 8, and is 16"),
        ({"recipe_values": {"training": {"max_steps": 8}}}, "training.beta was 1.0, and is null"),
        ({"sampler": "random"}, "--sampler null"),
        ({"seed": 1}, "--seed null"),
    ],
)
def test_a_change_of_what_decides_the_results_is_refused(tmp_path: Path, changes: dict[str, object], part: str) -> None:
    sweep = SweepDir(tmp_path)
    sweep.write(definition(), [], None)
    with pytest.raises(UsageError) as caught:
        refuse_changes(sweep.read()[0], definition(**changes), tmp_path)
    assert part in str(caught.value)


def test_the_ranges_of_a_sampler_that_learns_cannot_change(tmp_path: Path) -> None:
    sweep = SweepDir(tmp_path)
    sweep.write(definition(sampler="tpe", random=4, seed=1), [], None)
    with pytest.raises(UsageError, match="--grid or --range"):
        refuse_changes(sweep.read()[0], definition(sampler="tpe", random=8, seed=1, space={}), tmp_path)
    refuse_changes(sweep.read()[0], definition(sampler="tpe", random=8, seed=1), tmp_path)


def test_metric_and_early_stop_may_change(tmp_path: Path) -> None:
    sweep = SweepDir(tmp_path)
    sweep.write(definition(), [], None)
    refuse_changes(sweep.read()[0], definition(metric="margin", early_stop=False, stop_from=0.5), tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1}', '{"version": 9, "definition": {}, "trials": []}'])
def test_a_damaged_record_is_an_error_with_a_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(UsageError) as caught:
        SweepDir(tmp_path).read()
    assert caught.value.remedy


def test_the_trials_of_a_sampler_that_learns_need_the_record(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(UsageError) as caught:
        SweepDir(tmp_path).read(adaptive=True)
    assert caught.value.remedy == (
        f"Start another sweep: --output DIR. The runs in trials/ can still be used: `orpo runs {tmp_path}`."
    )
