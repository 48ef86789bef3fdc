"""`orpo convert` from its arguments to its output, and the inputs that it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.converted_examples import EXAMPLES_DIR


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base_model: a/b\nrl: dpo\n", "`rl: dpo`"),
        ("base_model: a/b\nmicro_batch_size: 1\n", "no `rl:`"),
        ("model_name_or_path: a/b\nfinetuning_type: lora\nstage: dpo\n", "`stage: dpo` with `pref_loss: sigmoid`"),
        ("model_name_or_path: a/b\nfinetuning_type: lora\nstage: sft\n", "not for ORPO: it has `stage: sft`"),
        ("model_name_or_path: a/b\nloss_type: sigmoid\n", "`loss_type` is not an argument of trl's ORPO"),
        ("DPOConfig(beta=0.1, output_dir='x')", "printed DPOConfig"),
        ("swift rlhf --rlhf_type dpo --model a/b\n", "`rlhf_type: dpo`"),
    ],
)
def test_a_configuration_for_another_method_is_rejected_with_exit_code_2(
    text: str, message: str, tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    (tmp_path / "x.yml").write_text(text)
    result = orpo_here("convert", tmp_path / "x.yml")
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_an_existing_output_file_is_not_overwritten_without_force(
    tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    source, target = EXAMPLES_DIR / "axolotl-qlora.yml", tmp_path / "x.yaml"
    result = orpo_here("convert", source, "-o", target)
    assert (result.returncode, result.stdout.strip()) == (0, f"wrote {target}")
    assert f"{source}:73: liger_rope: unknown to axolotl" in result.stderr
    first = target.read_text()
    assert orpo_here("convert", source, "-o", target).returncode == 2
    assert orpo_here("convert", EXAMPLES_DIR / "trl-lora.sh", "-o", target).returncode == 2
    assert target.read_text() == first
    assert orpo_here("convert", EXAMPLES_DIR / "trl-lora.sh", "-o", target, "--force").returncode == 0
    assert target.read_text() != first
    assert orpo_here("validate", target).returncode == 0


@pytest.mark.parametrize("command", ["validate", "plan", "train", "doctor"])
def test_a_placeholder_is_a_problem_of_the_recipe(tmp_path: Path, orpo_here: Callable[..., Any], command: str) -> None:
    printed, recipe = tmp_path / "printed.txt", tmp_path / "converted.yaml"
    printed.write_text("ORPOConfig(output_dir='out', beta=0.2)")
    assert orpo_here("convert", printed, "-o", recipe).returncode == 0
    lines = recipe.read_text().splitlines()
    done = orpo_here(command, recipe)
    assert done.returncode == 2, done.stderr
    for path, value, kind in (
        ("model.model_name_or_path", "TODO/base-model", "a hub id or a folder"),
        ("dataset.train.path", "TODO.jsonl", "a file, a folder or a hub dataset"),
    ):
        (number,) = (number for number, line in enumerate(lines, start=1) if value in line)
        column = lines[number - 1].index(path.rpartition(".")[2]) + 1
        problem = f"{path}: {value} is a placeholder. Write {kind} in its place. [placeholder]"
        assert f"{recipe}:{number}:{column}: {problem}" in done.stderr


def test_a_name_that_contains_todo_is_no_placeholder(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    (tmp_path / "TODO.jsonl").touch()
    recipe = tmp_path / "x.yaml"
    for model in ("TODOs/base", "my/TODO", "data/TODO/base", "./TODO/base", "TODO-list"):
        recipe.write_text(f"model: {{model_name_or_path: {model}}}\ndataset: {{train: {{path: TODO.jsonl}}}}\n")
        done = orpo_here("validate", recipe)
        assert done.returncode == 0, done.stderr


def test_json_is_one_document_with_the_outcome_of_each_key(orpo_here: Callable[..., Any]) -> None:
    document = json.loads(orpo_here("convert", EXAMPLES_DIR / "axolotl-qlora.yml", "--json").stdout)
    assert document["from"] == "axolotl"
    assert document["values"]["lora"]["r"] == 64
    [entry] = [outcome for outcome in document["keys"] if outcome["key"] == "micro_batch_size"]
    path = "training.per_device_train_batch_size"
    assert entry == {
        "key": "micro_batch_size", "value": 2, "line": 45, "outcome": "kept", "path": path, "note": None,
    }  # fmt: skip


def test_a_converted_recipe_can_be_piped_into_plan(orpo: Callable[..., Any]) -> None:
    converted = orpo("convert", EXAMPLES_DIR / "trl-lora.sh", "--quiet")
    assert converted.stderr == ""
    planned = orpo("plan", "-", "--all", input=converted.stdout)
    assert planned.returncode == 0, planned.stderr
    assert "training.learning_rate = 8e-05  # as the recipe says" in planned.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.yml",), "nowhere.yml cannot be read"),
        (("x.yml", "--from", "axlotl"), "is not one of 'auto', 'axolotl'"),
        (("x.yml", "--force"), "--force does nothing"),
        (("x.yml", "--model", ""), "--model is empty"),
        (("x.yml", "--from", "orpo-config"), "contains no printed ORPOConfig"),
        (("x.yml",), "not recognized"),
        (("recipe.yml",), "looks like a recipe"),
    ],
)
def test_input_that_cannot_be_converted_is_an_error(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    orpo_here: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yml").write_text("one: 1\n")
    (tmp_path / "recipe.yml").write_text("model: {model_name_or_path: a}\ndataset: {train: {path: b}}\n")
    result = orpo_here("convert", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
