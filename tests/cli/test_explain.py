"""``orpo explain``: explanations of problem codes on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orpo_cli.recipe.explanations import problem_codes


def test_a_code_is_explained_with_reason_example_and_repair(orpo_here: Callable[..., Any]) -> None:
    done = orpo_here("explain", "bf16-and-fp16")
    assert done.returncode == 0
    headings = [line for line in done.stdout.splitlines() if line.startswith("#")]
    assert headings == ["# bf16-and-fp16", "## Why", "## Example", "## What to do", "## Repaired example"]
    assert "    training:\n      bf16: true\n      fp16: true\n" in done.stdout


def test_links_between_pages_become_paths(orpo_here: Callable[..., Any]) -> None:
    assert "(docs/concepts.md#what-the-numbers-mean)" in orpo_here("explain", "best-metric-unknown").stdout


def test_json_has_every_part_by_name(orpo_here: Callable[..., Any]) -> None:
    explanation = json.loads(orpo_here("explain", "bf16-unsupported", "--json").stdout)
    assert explanation["code"] == "bf16-unsupported"
    assert (explanation["broken"], explanation["repaired"]) == (
        "training:\n  bf16: true\n",
        "training:\n  fp16: true\n",
    )
    assert explanation["machine"] == "T4"


def test_all_codes_are_listed_with_one_line_each(orpo_here: Callable[..., Any]) -> None:
    lines = orpo_here("explain").stdout.splitlines()
    assert [line.split()[0] for line in lines] == problem_codes()
    listed = json.loads(orpo_here("explain", "--json").stdout)["codes"]
    assert [each["code"] for each in listed] == problem_codes()


def test_an_unknown_code_is_answered_with_the_most_similar_one(orpo_here: Callable[..., Any]) -> None:
    done = orpo_here("explain", "unknwon-key")
    assert done.returncode == 2
    assert "Did you mean `unknown-key`?" in done.stderr


def test_a_key_of_recipes_is_not_answered_with_a_code(orpo_here: Callable[..., Any]) -> None:
    for key, full in (("beta", "training.beta"), ("lora.r", "lora.r"), ("lr", "training.learning_rate")):
        error = orpo_here("explain", key).stderr
        assert f"`{full}` is a key of recipes: see docs/reference/recipe.md" in error


def test_problems_name_the_command_that_explains_them(orpo_here: Callable[..., Any], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: {}\ndataset: {train: {path: pairs.jsonl}}\n")
    for command in ("validate", "plan"):
        assert "`orpo explain missing-key`" in orpo_here(command, recipe).stderr
    recipe.write_text("model: {}\ndataset: {train: {paht: pairs.jsonl}}\n")
    assert "`orpo explain CODE`" in orpo_here("validate", recipe).stderr
