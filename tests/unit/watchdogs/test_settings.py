"""The setting ``training.watchdogs``: actions for all watchdogs or by name, and the errors of a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from orpo_cli.errors import Problem, RecipeError
from orpo_cli.machine import Machine
from orpo_cli.planning.resolve import resolve
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.schema.watchdogs import WatchdogSettings
from orpo_cli.watchdogs.watchdogs import Watchdogs

CPU = Machine("cpu", "a processor", 1, None, 32 << 30, 8, False, False, 1 << 40, "3.11", "Linux")
RECIPE = "model: {model_name_or_path: a/b}\ndataset: {train: {path: x.jsonl}}\ntraining:\n  max_steps: 10\n"


def write(folder: Path, text: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE + text)
    return str(path)


def problems(folder: Path, text: str) -> list[Problem]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(folder, text))
    return list(caught.value.problems)


def test_there_is_a_setting_for_each_rule() -> None:
    names = [rule.code.replace("-", "_") for rule in Watchdogs({}).rules]
    assert names == list(WatchdogSettings.model_fields)


@pytest.mark.parametrize("action", ["advise", "stop", "off"])
def test_one_action_for_all(tmp_path: Path, action: str) -> None:
    loaded = load_recipe(write(tmp_path, f"  watchdogs: {action}\n"))
    assert resolve(loaded, CPU).training["watchdogs"] == action


def test_actions_by_name(tmp_path: Path) -> None:
    loaded = load_recipe(write(tmp_path, "  watchdogs: {loss_spike: stop, throughput_halved: off}\n"))
    actions = resolve(loaded, CPU).training["watchdogs"]
    assert actions["loss_spike"] == "stop"
    assert actions["throughput_halved"] == "off"
    assert set(actions.values()) == {"advise", "stop", "off"}


def test_an_unknown_name_is_an_error_with_a_suggestion(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "  watchdogs:\n    loss-spike: stop\n")
    assert (problem.code, problem.path, problem.line) == ("unknown-key", "training.watchdogs.loss-spike", 6)
    assert problem.remedy == "Did you mean `loss_spike`?"


def test_an_unknown_action_is_an_error_with_a_suggestion(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "  watchdogs: stopp\n")
    assert (problem.code, problem.path) == ("invalid-value", "training.watchdogs")
    assert problem.remedy == "Did you mean `stop`?"
    (problem,) = problems(tmp_path, "  watchdogs: {overfitting: warn}\n")
    assert (problem.code, problem.path) == ("invalid-value", "training.watchdogs.overfitting")
