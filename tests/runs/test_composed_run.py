"""A run of a recipe that extends another one and uses the environment: its directory has the complete recipe, and it can be resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tiny import write_recipe

from orpo_cli.recipe.load import load_recipe
from orpo_cli.rundir import RunDir


def test_the_run_directory_holds_the_recipe_as_written_and_as_a_whole(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    write_recipe(base, training={"save_strategy": "steps", "save_steps": 1})
    monkeypatch.setenv("RATE", "2e-3")
    monkeypatch.setenv("RUN_KEY", "swordfish")
    child = tmp_path / "child.yaml"
    written = (
        "extends: base/recipe.yaml\noutput_dir: run\n"
        "model: {token: '${RUN_KEY}'}\ntraining: {learning_rate: '${RATE}', max_steps: 2}\n"
    )
    child.write_text(written)
    monkeypatch.chdir(tmp_path)
    done = orpo_here("train", "child.yaml", "--set", "training.seed=5")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    assert (run / "recipe.original.yaml").read_text() == f"# --set training.seed=5\n{written}"
    assert not (run / "composed.yaml").exists()
    composed = load_recipe(str(run / "recipe.yaml")).recipe
    assert (composed.training.learning_rate, composed.training.seed, composed.training.max_steps) == (2e-3, 5, 2)
    assert composed.model.model_name_or_path == str(base / "model")
    assert composed.dataset.train[0].path == str(base / "train.jsonl")
    assert "extends:" not in (run / "README.md").read_text()
    card = (run / "README.md").read_text()
    assert "learning_rate: 0.002\n" in card
    assert "model_name_or_path: model\n" in card
    assert "path: train.jsonl\n" in card
    assert str(tmp_path) not in card.partition("## Recipe")[2].partition("## Training details")[0]
    holders = [path.name for path in run.rglob("*") if path.is_file() and b"swordfish" in path.read_bytes()]
    assert holders == []
    assert "swordfish" not in done.stdout + done.stderr
    assert RunDir(run).read_plan().model.token == "swordfish"
    assert json.loads((run / "plan.json").read_text())["training"]["learning_rate"]["origin"] == "environment"

    again = ("train", "child.yaml", "--set", "training.seed=5", "--resume", "auto")
    done = orpo_here(*again)
    assert "this run has finished" in done.stderr
    (run / "run.json").write_text((run / "run.json").read_text().replace('"finished"', '"interrupted"'))
    done = orpo_here(*again, "--set", "training.max_steps=3")
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stderr
    monkeypatch.setenv("RATE", "1e-3")
    (run / "run.json").write_text((run / "run.json").read_text().replace('"finished"', '"interrupted"'))
    done = orpo_here(*again)
    assert done.returncode == 2
    assert "training.learning_rate: 0.002 → 0.001" in done.stderr
    done = orpo_here("eval", run)
    assert done.returncode == 0, done.stderr
