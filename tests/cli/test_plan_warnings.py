"""Warnings of `orpo plan`, which are errors with --strict, and requirements without which `orpo train` does not start."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from support.tiny import write_recipe

from tests.conftest import CommandResult


def test_warnings_have_line_and_code_and_are_errors_with_strict(
    tmp_path: Path, orpo_here: Callable[..., CommandResult]
) -> None:
    recipe = write_recipe(tmp_path, training={"learning_rate": 0.1})
    done = orpo_here("plan", recipe, "--json")
    assert done.returncode == 0, done.stderr
    assert "[unusual-learning-rate]" in done.stderr
    (problem,) = json.loads(done.stdout)["problems"]
    assert (problem["code"], problem["severity"], problem["file"]) == ("unusual-learning-rate", "warning", str(recipe))
    assert "learning_rate" in recipe.read_text().splitlines()[problem["line"] - 1]

    done = orpo_here("plan", recipe, "--strict", "--json")
    assert done.returncode == 2
    assert [each["code"] for each in json.loads(done.stdout)["problems"]] == ["unusual-learning-rate"]
    assert "error: --strict makes warnings errors." in done.stderr


def test_a_misspelt_target_module_is_an_error_with_its_line(
    tmp_path: Path, orpo_here: Callable[..., CommandResult]
) -> None:
    for targets in (["q_pro"], ["q_proj", "v_pro"]):
        recipe = write_recipe(tmp_path, lora=False, estimated=False)
        recipe.write_text(f"{recipe.read_text()}\nlora: {{target_modules: {json.dumps(targets)}}}\n")
        for command in ("plan", "train"):
            refused = orpo_here(command, recipe)
            assert refused.returncode == 2
            assert f"the model has no layer {targets[-1]}; its linear layers are down_proj" in refused.stderr
            assert f"Did you mean {targets[-1]}j?" in refused.stderr
            assert "recipe.yaml:" in refused.stderr
    known = write_recipe(tmp_path, lora=False, estimated=False)
    known.write_text(f"{known.read_text()}\nlora: {{target_modules: [q_proj, lm_head]}}\n")
    assert orpo_here("plan", known).returncode == 0


def test_many_truncated_pairs_are_a_warning_in_plan_and_train(
    tmp_path: Path, orpo_here: Callable[..., CommandResult]
) -> None:
    recipe = write_recipe(tmp_path, steps=1, estimated=False)
    assert "are truncated" not in orpo_here("plan", recipe).stderr
    short = ("--set", "training.max_length=32", "--set", "dataset.max_prompt_length=16")
    planned = orpo_here("plan", recipe, *short)
    assert planned.returncode == 0
    assert "of the pairs are longer than max_length 32 and are truncated" in planned.stderr
    assert "[pairs-truncated]" in planned.stderr
    assert orpo_here("plan", recipe, "--strict", *short).returncode == 2
    trained = orpo_here("train", recipe, *short)
    assert trained.returncode == 0, trained.stderr
    assert "[pairs-truncated]" in trained.stderr
    warnings = json.loads((tmp_path / "run" / "run.json").read_text())["warnings"]
    assert [each["code"] for each in warnings].count("pairs-truncated") <= 2  # of both parts
    assert len({json.dumps(each) for each in warnings}) == len(warnings)


def test_a_training_says_that_length_predicts_the_preference(
    tmp_path: Path, orpo_here: Callable[..., CommandResult]
) -> None:
    recipe = write_recipe(tmp_path, steps=1, estimated=False)
    rows = [{"prompt": f"{n}?", "chosen": f"It is {n}, as you know.", "rejected": f"{n}"} for n in range(120)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = orpo_here("train", recipe)
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^dataset\.train: warning: chosen completions are longer by \d+ tokens", done.stderr, re.MULTILINE
    )
    assert "Add pairs whose chosen completion is shorter, or drop a part of the others. [length" in done.stderr


def test_a_missing_package_is_a_warning_in_plan_and_an_error_in_train(
    tmp_path: Path, orpo_here: Callable[..., CommandResult]
) -> None:
    recipe = write_recipe(tmp_path, training={"optim": "stable_adamw"})
    done = orpo_here("plan", recipe)
    assert done.returncode == 0
    assert "warning: stable_adamw needs the package torch-optimi" in done.stderr
    done = orpo_here("train", recipe)
    assert done.returncode == 3
    assert "pip install torch-optimi" in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_plan_warns_of_data_that_training_would_refuse(
    tmp_path: Path, orpo_here: Callable[..., CommandResult]
) -> None:
    recipe = write_recipe(tmp_path)
    rows = [{"question": f"What is {n}?", "good": f"It is {n}.", "bad": "No."} for n in range(8)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = orpo_here("plan", recipe)
    assert done.returncode == 0, done.stderr
    assert "no row looks like preference data" in done.stderr
    assert "columns: {prompt: question, chosen: good, rejected: bad}" in done.stderr
    assert "`orpo train` will refuse it" in done.stderr
    assert orpo_here("plan", recipe, "--strict").returncode == 4
    (tmp_path / "train.jsonl").unlink()
    assert "train.jsonl: no such file" in orpo_here("plan", recipe).stderr
