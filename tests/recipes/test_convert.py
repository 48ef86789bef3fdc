"""Converted recipes: each key is kept or explained in a comment, and the recipe is valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from support.converted_examples import EXAMPLES, EXAMPLES_DIR, convert_example, outcome_of

from orpo_cli.recipe.convert.convert import convert
from orpo_cli.recipe.load import load_recipe


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_converted_to_the_expected_values(name: str) -> None:
    expected = (EXAMPLES_DIR / f"{name}.values.yaml").read_text(encoding="utf-8")
    assert convert_example(name).values == yaml.safe_load(expected)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_converted_recipe_is_valid_and_has_the_reported_values(name: str, tmp_path: Path) -> None:
    conversion = convert_example(name)
    (tmp_path / "x.yaml").write_text(conversion.text, encoding="utf-8")
    loaded = load_recipe(str(tmp_path / "x.yaml"))
    assert yaml.safe_load(conversion.text) == conversion.values
    assert loaded.recipe.model.model_name_or_path


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_recipe_mentions_every_key(name: str) -> None:
    conversion = convert_example(name)
    for outcome in conversion.outcomes:
        *_, last = re.split(r"[.\]]", outcome.key)
        assert re.search(rf"\b{re.escape(last)}\b", conversion.text) or any(
            other.key.startswith((f"{outcome.key}.", f"{outcome.key}[")) for other in conversion.outcomes
        ), outcome.key


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_recipe_stays_valid_if_a_commented_setting_is_turned_on(name: str, tmp_path: Path) -> None:
    conversion = convert_example(name)
    file = tmp_path / "x.yaml"
    lines = conversion.text.splitlines()
    settings = [index for index, line in enumerate(lines) if re.match(r"\s*# [a-z_]+: \S", line) and not is_prose(line)]
    for index in settings:
        changed = [*lines]
        changed[index] = changed[index].replace("# ", "", 1)
        section = next((number for number in range(index, 0, -1) if re.match(r"# [a-z]+:$", lines[number])), None)
        if section is not None and all(re.match(r"\s*#", line) for line in lines[section:index]):
            changed[section] = changed[section].replace("# ", "", 1)
        file.write_text("\n".join(changed), encoding="utf-8")
        load_recipe(str(file))


def is_prose(line: str) -> bool:
    return line.rstrip().endswith(".") or ";" in line


def test_secrets_are_not_copied() -> None:
    conversion = convert_example("handbook-full.yaml")
    assert outcome_of(conversion, "hub_token") == "left-out"
    assert "hf_abc" not in conversion.text + repr(conversion.outcomes)


def test_settings_without_effect_are_left_out_with_the_rule_as_reason(tmp_path: Path) -> None:
    text = "model_name_or_path: a/b\ndataset_name: some/pairs\neval_steps: 50\nlr_scheduler_type: constant\n"
    conversion = convert(text + "warmup_steps: 10\n", "x.yaml")
    assert {outcome_of(conversion, "eval_steps"), outcome_of(conversion, "warmup_steps")} == {"left-out"}
    assert "dataset.eval is not set" in conversion.text
    (tmp_path / "x.yaml").write_text(conversion.text)
    assert load_recipe(str(tmp_path / "x.yaml")).warnings == ()


def test_a_dollar_sign_in_a_value_is_not_an_environment_reference(tmp_path: Path) -> None:
    conversion = convert("base_model: a/b\nrl: orpo\noutput_dir: out/${NAME}\n", "x.yml", dataset="p.jsonl")
    (tmp_path / "x.yaml").write_text(conversion.text)
    assert load_recipe(str(tmp_path / "x.yaml")).recipe.output_dir == "out/${NAME}"


def test_model_and_dataset_options_override_the_file() -> None:
    text = (EXAMPLES_DIR / "axolotl-qlora.yml").read_text()
    conversion = convert(text, "x.yml", model="other/model", dataset="mine.jsonl")
    assert conversion.values["model"]["model_name_or_path"] == "other/model"
    assert conversion.values["dataset"]["train"] == {"path": "mine.jsonl"}
    assert outcome_of(conversion, "base_model") == "left-out"
