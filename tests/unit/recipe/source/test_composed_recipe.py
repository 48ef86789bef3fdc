"""Composed recipe: it is read back as the same recipe, and every value has its origin as a comment."""

from __future__ import annotations

from pathlib import Path

import pytest

from orpo_cli.recipe.load import LoadedRecipe, load_recipe
from orpo_cli.recipe.source.composed_recipe import compose_recipe_text
from orpo_cli.recipe.source.shipped_recipes import shipped_recipes

BASE = """\
model:
  model_name_or_path: a/b
  token: ${DATA_TOKEN}
  chat_template: "{% for message in messages %}\\n  {{ message }} \\n{% endfor %}"
dataset:
  train:
    - path: https://example.org/${ORG}/pairs.jsonl
    - path: pairs.jsonl
      columns: {chosen: "5e-6", rejected: "no"}
training:
  beta: 0.1
  evaluation_strategy: "no"
"""
CHILD = """\
extends: base.yaml
training: {seed: "${SEED:-3}", run_name: "$${literal}", learning_rate: 1e-5}
lora: {r: null, exclude_modules: ["${ORG}", "x: y"], rank_pattern: {}}
"""


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedRecipe:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORG", "us")
    monkeypatch.setenv("DATA_TOKEN", "swordfish")
    monkeypatch.delenv("SEED", raising=False)
    for name, text in {"base.yaml": BASE, "child.yaml": CHILD, "pairs.jsonl": ""}.items():
        Path(name).write_text(text)
    return load_recipe("child.yaml", ["merge.max_shard_size=2GB"])


def test_the_composed_recipe_is_read_back_as_the_same_recipe(
    loaded: LoadedRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = compose_recipe_text(loaded)
    assert text is not None
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "composed.yaml").write_text(text)
    monkeypatch.chdir(elsewhere)
    again = load_recipe("composed.yaml")
    before, after = loaded.recipe.model_dump(exclude={"extends"}), again.recipe.model_dump(exclude={"extends"})
    assert before["dataset"]["train"][1].pop("path") == "pairs.jsonl"
    assert after["dataset"]["train"][1].pop("path") == str(tmp_path / "pairs.jsonl")
    assert after.pop("name") == loaded.name == "child"
    assert before.pop("name") is None
    assert after == before
    assert {each.path for each in again.warnings} == {each.path for each in loaded.warnings} != set()


def test_every_value_has_its_origin_as_a_comment(loaded: LoadedRecipe) -> None:
    lines = str(compose_recipe_text(loaded)).splitlines()
    for line in (
        "name: child # the name of the file",
        "  model_name_or_path: a/b # base.yaml:2",
        "  beta: 0.1 # base.yaml:11",
        "  seed: 3 # child.yaml:2, ${SEED:-3}",
        "  max_shard_size: 2GB # --set",
    ):
        assert line in lines
    assert not [line for line in lines if line.startswith("extends")]


def test_an_empty_section_stays_a_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "null")
    (tmp_path / "r.yaml").write_text(
        "model: {model_name_or_path: a/b}\ndataset: {train: {path: x}}\nlora: {r: '${RANK}'}\nhub: {}\n"
    )
    (tmp_path / "composed.yaml").write_text(str(compose_recipe_text(load_recipe(str(tmp_path / "r.yaml")))))
    assert load_recipe(str(tmp_path / "composed.yaml")).recipe.lora is not None


def test_a_secret_is_written_as_a_reference(loaded: LoadedRecipe) -> None:
    text = str(compose_recipe_text(loaded))
    assert "swordfish" not in text
    assert "  token: ${DATA_TOKEN} # base.yaml:3\n" in text
    assert (
        "    - path: https://example.org/us/pairs.jsonl # base.yaml:7, https://example.org/${ORG}/pairs.jsonl\n" in text
    )


def test_a_recipe_without_parents_and_variables_has_no_composed_text(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: {model_name_or_path: a/b}\ndataset: {train: {path: x}}\n")
    assert compose_recipe_text(load_recipe(str(tmp_path / "r.yaml"), ["training.seed=3"])) is None


@pytest.mark.parametrize("name", [recipe.name for recipe in shipped_recipes()])
def test_the_composed_text_of_a_recipe_that_extends_a_shipped_one_is_complete(name: str, tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text(f"extends: {name}\ntraining: {{seed: 1234}}\n")
    loaded = load_recipe(str(child))
    (tmp_path / "composed.yaml").write_text(str(compose_recipe_text(loaded)))
    again = load_recipe(str(tmp_path / "composed.yaml")).recipe
    exclude = {"extends": True, "dataset": {"train", "eval"}}
    assert again.model_dump(exclude=exclude) == loaded.recipe.model_dump(exclude=exclude)
    assert again.training.seed == 1234
