"""The shipped recipes as parameters of tests."""

from __future__ import annotations

from typing import Any

import pytest

from orpo_cli.model.known_configs import known_config
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.source.shipped_recipes import shipped_recipes

HUB_MODELS = {
    "quickstart": "HuggingFaceTB/SmolLM2-135M-Instruct"
}  # the model of the quickstart is in a package, which may be missing


def shipped_recipe_params() -> list[Any]:
    """The names of all shipped recipes; one is marked slow if an earlier one has the same architecture."""
    architectures, names = set[Any](), list[Any]()
    for shipped in shipped_recipes():
        config = known_config(load_recipe(shipped.name).recipe.model.model_name_or_path)
        architecture = getattr(config, "model_type", None)
        names.append(pytest.param(shipped.name, marks=[pytest.mark.slow] if architecture in architectures else []))
        architectures.add(architecture)
    return names
