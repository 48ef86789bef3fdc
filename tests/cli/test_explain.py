"""``orpo explain``: explanations of problem codes on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from orpo_cli.errors import DOCS
from orpo_cli.recipe.explanations import problem_codes
from orpo_cli.recipe.key_reference import read_key


def test_a_code_is_explained_with_reason_example_and_repair(orpo_here: Callable[..., Any]) -> None:
    done = orpo_here("explain", "bf16-and-fp16")
    assert done.returncode == 0
    headings = [line for line in done.stdout.splitlines() if line.startswith("#")]
    assert headings == ["# bf16-and-fp16", "## Why", "## Example", "## What to do", "## Repaired example"]
    assert "    training:\n      bf16: true\n      fp16: true\n" in done.stdout


def test_links_between_pages_become_addresses(orpo_here: Callable[..., Any]) -> None:
    assert f"({DOCS}/concepts.md#what-the-numbers-mean)" in orpo_here("explain", "best-metric-unknown").stdout


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


@pytest.mark.parametrize(
    ("key", "facts"),
    [
        (
            "training.beta",
            ("# training.beta", "Weight of the odds ratio term", "- type: number · ≥ 0", "- default: 0.1,"),
        ),
        ("beta", ("# training.beta",)),
        ("lr", ("# training.learning_rate",)),
        ("merge.dtype", ("- values: auto, float32, bfloat16, float16\n", "- default: auto")),
        ("dtype", ("# model.dtype", "- other keys of this name: merge.dtype, export.dtype")),
        ("lora", ("# lora\n\npeft.LoraConfig", "- keys: r, lora_alpha, ")),
        ("dataset.train.0.path", ("# dataset.train.path\n\nHub id, file,", "- default: required")),
        ("dataset.eval.test_size", ("Fraction (below 1)", "> 0")),
        ("model.rope_scaling.factor", ("Scaling factor of the length.",)),
        ("training.max_prompt_length", ("Read as `dataset.max_prompt_length`.",)),
        ("lora.peft_type", ("Orpo-cli sets it. Refused. Remove it: it is LORA.",)),
    ],
)
def test_a_key_is_explained_without_a_recipe(key: str, facts: tuple[str, ...], orpo_here: Callable[..., Any]) -> None:
    done = orpo_here("explain", key)
    assert done.returncode == 0, done.stderr
    assert [fact for fact in facts if fact not in done.stdout] == []


def test_every_key_of_the_schema_has_a_reference() -> None:
    from orpo_cli.cli.completion import complete_override

    keys = [each.rstrip("=") for each in complete_override("")]
    assert len(keys) > 200
    assert [key for key in keys if not read_key(key).description] == []


def test_the_value_of_a_key_in_a_recipe_comes_with_its_reason(orpo_here: Callable[..., Any], tmp_path: Path) -> None:
    from support.tiny import write_recipe

    recipe = write_recipe(tmp_path, training={"beta": 0.3})
    done = orpo_here("explain", "training.beta", recipe)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# training.beta\n\nWeight of the odds ratio term")
    assert f"## In {recipe}\n\ntraining.beta = 0.3  # {recipe}:" in done.stdout
    document = json.loads(orpo_here("explain", "merge.dtype", recipe, "--json").stdout)
    assert [(each["path"], each["value"], each["origin"]) for each in document["plan"]] == [
        ("merge.dtype", "float32", "decided")
    ]
    assert "dataset.train[0].path = " in orpo_here("explain", "dataset.train", recipe).stdout
    assert "dataset.train[0].path = " in orpo_here("explain", "dataset.train.0.path", recipe).stdout
    assert "training.hub_revision is not set" in orpo_here("explain", "training.hub_revision", recipe).stdout


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("training.bta", "`beta`"),
        ("bta", "`training.beta`"),
        ("trainig.beta", "`training.beta`"),
        ("hub.repo", "`repo_id`"),
        ("launch.learning_rate", "`training.learning_rate`"),
    ],
)
def test_an_unknown_key_is_answered_with_the_most_similar_one(
    key: str, suggestion: str, orpo_here: Callable[..., Any]
) -> None:
    done = orpo_here("explain", key)
    assert done.returncode == 2
    assert f"{key}: no such key of a recipe." in done.stderr
    assert suggestion in done.stderr


@pytest.mark.parametrize("name", ["nonsense", "training.zzzzz", "unknown-key"])
def test_pages_have_an_address_because_a_wheel_has_no_docs(name: str, orpo_here: Callable[..., Any]) -> None:
    done = orpo_here("explain", name)
    pages = re.findall(r"\S*reference/\S+", done.stdout + done.stderr)
    assert [page.removeprefix("(").startswith(f"{DOCS}/") for page in pages] == [True]


def test_the_address_of_the_pages_is_that_of_the_package() -> None:
    urls = dict(line.split(", ") for line in metadata.metadata("orpo-cli").get_all("Project-URL") or ())
    assert urls["Documentation"] == f"{DOCS}/index.md"


def test_a_recipe_does_nothing_with_a_code(orpo_here: Callable[..., Any]) -> None:
    assert orpo_here("explain", "unknown-key", "quickstart").returncode == 2


def test_problems_name_the_command_that_explains_them(orpo_here: Callable[..., Any], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: {}\ndataset: {train: {path: pairs.jsonl}}\n")
    for command in ("validate", "plan"):
        assert "`orpo explain missing-key`" in orpo_here(command, recipe).stderr
    recipe.write_text("model: {}\ndataset: {train: {paht: pairs.jsonl}}\n")
    assert "`orpo explain CODE`" in orpo_here("validate", recipe).stderr


def test_the_reason_of_a_dropped_row_is_explained(orpo_here: Callable[..., Any]) -> None:
    shown = orpo_here("explain", "empty_rejected").stdout
    assert "the rejected completion has no text" in shown
    assert "dataset.rules.empty_rejected" in shown
    document = json.loads(orpo_here("explain", "no_score", "--json").stdout)
    assert "score_chosen" in document["remedy"]
