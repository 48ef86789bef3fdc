"""Validation of the trials before anything starts, and what a sweep changes in their recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from orpo_cli.errors import RecipeError, UsageError
from orpo_cli.recipe.load import load_recipe
from orpo_cli.sweep.search_space import parse_search_space
from orpo_cli.sweep.trial_recipe import load_trials, load_with_values, sweep_overrides
from orpo_cli.sweep.trials import name_trials

RECIPE = """\
model:
  model_name_or_path: org/model
dataset:
  train: {path: train.jsonl}
  eval: {path: heldout.jsonl}
training:
  learning_rate: 1.0e-5
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return str(path)


def problems(recipe: str, grids: list[str], ranges: list[str] | None = None, *, strict: bool = False) -> str:
    with pytest.raises((RecipeError, UsageError)) as caught:
        load_with_values(recipe, [], parse_search_space(grids, ranges or []), strict=strict)
    return str(caught.value)


def test_every_invalid_value_is_reported_with_its_option(recipe: str) -> None:
    text = problems(
        recipe, ["training.learning_rate=1e-5,-1", "training.optim=adamw_torch,adamm"], ["training.beta=-2..0.5"]
    )
    assert "--grid: training.learning_rate: must be at least 0" in text or "--grid: training.learning_rate" in text
    assert "--grid: training.optim" in text
    assert "adamm" in text
    assert "--range: training.beta" in text
    assert "--set" not in text


def test_an_unknown_key_is_reported_with_a_suggestion(recipe: str) -> None:
    text = problems(recipe, ["training.learningrate=1e-5"])
    assert "--grid: training.learningrate" in text
    assert "learning_rate" in text


def test_a_key_below_a_value_is_reported_with_its_option(recipe: str) -> None:
    assert "--grid training.learning_rate.x=1" in problems(recipe, ["training.learning_rate.x=1,2"])


def test_warnings_of_values_are_shown_once_and_are_errors_with_strict(recipe: str) -> None:
    space = parse_search_space(["training.beta=0.1,50"], [])
    warnings = load_with_values(recipe, [], space, strict=False).warnings
    assert [each.file for each in warnings] == ["--grid"]
    assert "unusual-beta" in problems(recipe, ["training.beta=0.1,50"], strict=True)


def test_values_that_do_not_fit_together_name_the_trial(recipe: str) -> None:
    trials = name_trials(
        [{"training.bf16": True, "training.fp16": True}, {"training.bf16": True, "training.fp16": False}]
    )
    with pytest.raises(RecipeError) as caught:
        load_trials(recipe, [], trials, strict=False)
    assert "(trial bf16=true,fp16=true)" in str(caught.value)
    assert "fp16=false" not in str(caught.value)


@pytest.mark.parametrize(
    ("training", "early_stop", "expected"),
    [
        ({"eval_strategy": '"no"', "save_strategy": "epoch"}, True, ["eval_strategy=steps", "eval_steps=0.25"]),
        ({"eval_strategy": '"no"', "save_strategy": "epoch"}, False, ["eval_strategy=epoch"]),
        ({"eval_strategy": "epoch", "save_strategy": "epoch"}, True, ["eval_strategy=steps", "eval_steps=0.25"]),
        ({"eval_strategy": "epoch"}, False, []),
        ({"eval_strategy": "steps", "eval_steps": "5"}, True, []),
        ({}, True, []),  # the default keeps the best of all epochs: other evaluations would change the result
        ({"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": "true"}, True, []),
        ({"eval_strategy": "epoch", "lr_scheduler_type": "reduce_lr_on_plateau"}, True, []),
        ({"push_to_hub": "true", "eval_strategy": "steps", "eval_steps": "5"}, True, ["push_to_hub=false"]),
    ],
)
def test_evaluations_are_added_only_where_they_change_no_result(
    recipe: str, training: dict[str, str], early_stop: bool, expected: list[str]
) -> None:
    overrides = [f"training.{key}={value}" for key, value in training.items()]
    if "push_to_hub" in training:
        overrides.append("hub.repo_id=me/model")
    loaded = load_recipe(recipe, overrides).recipe
    changes, reasons = sweep_overrides(loaded, early_stop=early_stop)
    assert changes == [f"training.{each}" for each in expected]
    assert bool(changes) == bool(reasons)


def test_without_held_out_pairs_nothing_is_evaluated(recipe: str) -> None:
    loaded = load_recipe(recipe, ["dataset.eval=null"]).recipe
    assert sweep_overrides(loaded, early_stop=True) == ([], [])
