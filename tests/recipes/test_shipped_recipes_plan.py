"""Every shipped recipe plans without the network, with the defaults of its model's own size."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from orpo_cli.recipe.shipped import shipped_recipes

NAMES = [recipe.name for recipe in shipped_recipes()]
OF_THE_HUB = {"quickstart": "HuggingFaceTB/SmolLM2-135M-Instruct"}  # its model comes in a package, which may be missing


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_plans_without_the_network(name: str, orpo_here: Callable[..., Any]) -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    model = ["--set", f"model.model_name_or_path={OF_THE_HUB[name]}"] if name in OF_THE_HUB else []
    done = orpo_here("plan", name, "--json", *model)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["name"]["value"] == name
    assert "auto" not in (plan["model"]["dtype"]["value"], plan["model"]["attn_implementation"]["value"])
    assert "7B model" not in done.stderr


def test_a_plan_without_the_network_says_whose_size_it_goes_by(orpo_here: Callable[..., Any]) -> None:
    known = orpo_here("plan", "llama3-8b-qlora")
    assert "those of 8.03B parameters, which orpo-cli knows it has" in known.stderr
    other = orpo_here("plan", "llama3-8b-qlora", "--set", "model.model_name_or_path=someone/their-model")
    assert "those of a 7B model" in other.stderr
