"""Smoke runs of shipped recipes: two training steps on a tiny random model of the same architecture, without the network."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.shipped import HUB_MODELS, shipped_recipe_params

from orpo_cli.recipe.load import load_recipe


@pytest.mark.parametrize("name", shipped_recipe_params())
def test_a_shipped_recipe_trains_two_steps_on_a_tiny_model(
    name: str, tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = ["--set", f"model.model_name_or_path={HUB_MODELS[name]}"] if name in HUB_MODELS else []
    done = orpo_here("train", "--smoke", name, "--json", *model)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["status"], report["name"], report["steps"]) == ("ok", name, 2)
    assert math.isfinite(report["final_metrics"]["loss"])
    assert report["final_metrics"]["grad_norm"] > 0
    recipe = load_recipe(name).recipe
    assert (recipe.training.eval_strategy in ("steps", "epoch")) == bool(report["final_evaluation"])
    assert ("verified: logits within" in done.stderr) == (recipe.lora is not None)
    assert not list(tmp_path.glob("orpo-smoke-*"))


def test_synthetic_training_pairs_differ_from_synthetic_held_out_pairs(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = orpo_here("train", "--smoke", "opt-125m-hh", "--set", "dataset.rules.leaked=true")
    assert done.returncode == 0, done.stderr
    assert "64 train pairs, 64 eval pairs" in done.stderr
