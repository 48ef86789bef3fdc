"""Plans of shipped recipes: they need no network and use the defaults of their model's size."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from typing import Any

import pytest
from support.shipped import HUB_MODELS, shipped_recipe_params

from orpo_cli.machine import Machine
from orpo_cli.model.model_facts import known_facts
from orpo_cli.planning.resolve import resolve
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.schema import ModelSection
from orpo_cli.recipe.source.shipped_recipes import shipped_recipe, shipped_recipes

H100 = Machine("cuda", "H100", 1, 80 << 30, 1 << 40, 16, True, False, 1 << 42, "3.11", "Linux")
NAMES = [recipe.name for recipe in shipped_recipes()]


@pytest.mark.parametrize("name", shipped_recipe_params())
def test_a_shipped_recipe_can_be_planned_without_the_network(name: str, orpo_here: Callable[..., Any]) -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    model = ["--set", f"model.model_name_or_path={HUB_MODELS[name]}"] if name in HUB_MODELS else []
    done = orpo_here("plan", name, "--json", *model)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["name"]["value"] == name
    assert "auto" not in (plan["model"]["dtype"]["value"], plan["model"]["attn_implementation"]["value"])
    assert "7B model" not in done.stderr


def test_a_plan_without_the_network_reports_which_model_size_it_assumes(orpo_here: Callable[..., Any]) -> None:
    known = orpo_here("plan", "llama3-8b-qlora")
    assert "those of 8.03B parameters, which orpo-cli knows it has" in known.stderr
    other = orpo_here("plan", "llama3-8b-qlora", "--set", "model.model_name_or_path=someone/their-model")
    assert "those of a 7B model" in other.stderr
    named = orpo_here("plan", "llama3-8b-qlora", "--set", "model.model_name_or_path=someone/their-3B")
    assert "those of 3B parameters (by the model's name)" in named.stderr


@pytest.mark.parametrize("name", NAMES)
def test_on_its_gpu_the_plan_has_every_value_of_the_recipe(name: str) -> None:
    loaded = load_recipe(name)
    model = HUB_MODELS.get(name, loaded.recipe.model.model_name_or_path)
    plan = resolve(loaded, H100, known_facts(ModelSection(model_name_or_path=model)))
    explicit = loaded.recipe.training.model_dump(exclude_none=True)
    assert {key: plan.training[key] for key in explicit} == explicit
    assert plan.training["bf16"]
    assert plan.training["optim"] == loaded.recipe.training.optim or name == "quickstart"
    assert plan.model.dtype == ("bfloat16" if loaded.recipe.lora else loaded.recipe.model.dtype)


@pytest.mark.parametrize("name", NAMES)
def test_the_comment_on_pairs_a_step_matches_the_settings(name: str) -> None:
    recipe = load_recipe(name).recipe
    pattern = r"gradient_accumulation_steps: \d+ # ((?:\d+ x )+\d+) = (\d+) pairs"
    comment = re.search(pattern, shipped_recipe(name).text())
    if comment is None:
        assert name == "quickstart"
        return
    factors, pairs = list(map(int, comment[1].split(" x "))), int(comment[2])
    processes = recipe.launch.num_processes
    training = recipe.training
    expected = [training.per_device_train_batch_size, training.gradient_accumulation_steps]
    assert factors == expected + ([] if processes == "auto" else [processes])
    assert pairs == math.prod(factors)
    assert resolve(load_recipe(name), H100).launch.pairs_per_step == pairs
