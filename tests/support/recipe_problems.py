"""The problems that the cross-field rules find in a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from orpo_cli.errors import Problem, RecipeError
from orpo_cli.recipe.load import load_recipe

MODEL = {"model_name_or_path": "a/b"}
TRAIN = {"path": "x.jsonl"}
HELD_OUT = {"train": TRAIN, "eval": {"test_size": 0.1}}


def problems(folder: Path, **sections: Any) -> list[Problem]:
    """The problems of a recipe with these sections; `held_out` adds held-out pairs."""
    dataset = HELD_OUT if sections.pop("held_out", False) else {"train": TRAIN}
    file = folder / "r.yaml"
    file.write_text(yaml.safe_dump({"model": MODEL, "dataset": dataset, **sections}))
    try:
        return list(load_recipe(str(file)).warnings)
    except RecipeError as error:
        return list(error.problems)


def codes_and_paths(folder: Path, **sections: Any) -> set[tuple[str, str]]:
    return {(problem.code, problem.path) for problem in problems(folder, **sections)}
