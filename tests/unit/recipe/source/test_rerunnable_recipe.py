"""Re-runnable recipe: it is read back as the same recipe, and every value has its origin as a comment."""

from __future__ import annotations

from pathlib import Path

import pytest

from orpo_cli.planning.resolve import model_with_absolute_paths
from orpo_cli.recipe.load import LoadedRecipe, load_recipe
from orpo_cli.recipe.source.rerunnable_recipe import overridden_values, rerunnable_recipe
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


def test_the_recipe_is_read_back_as_the_same_recipe(
    loaded: LoadedRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = rerunnable_recipe(loaded)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "trained.yaml").write_text(text)
    monkeypatch.chdir(elsewhere)
    again = load_recipe("trained.yaml")
    before, after = loaded.recipe.model_dump(exclude={"extends"}), again.recipe.model_dump(exclude={"extends"})
    assert before["dataset"]["train"][1].pop("path") == "pairs.jsonl"
    assert after["dataset"]["train"][1].pop("path") == str(tmp_path / "pairs.jsonl")
    assert after.pop("name") == loaded.name == "child"
    assert before.pop("name") is None
    assert after == before
    assert {each.path for each in again.warnings} == {each.path for each in loaded.warnings} != set()


def test_every_value_has_its_origin_as_a_comment(loaded: LoadedRecipe) -> None:
    lines = rerunnable_recipe(loaded).splitlines()
    for line in (
        "name: child # the name of the file",
        "  model_name_or_path: a/b # base.yaml:2",
        "  beta: 0.1 # base.yaml:11",
        "  seed: 3 # child.yaml:2, ${SEED:-3}",
        "  max_shard_size: 2GB # --set",
    ):
        assert line in lines
    assert not [line for line in lines if line.startswith("extends")]


def test_line_breaks_in_the_name_of_a_file_do_not_damage_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a\nmodel: {x: 1}.yaml").write_text("model: {model_name_or_path: a/b}\ndataset: {train: {path: x}}\n")
    loaded = load_recipe("a\nmodel: {x: 1}.yaml")
    Path("trained.yaml").write_text(rerunnable_recipe(loaded))
    assert load_recipe("trained.yaml").recipe.name == loaded.name == "a\nmodel: {x: 1}"


def test_an_empty_section_stays_a_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "null")
    (tmp_path / "r.yaml").write_text(
        "model: {model_name_or_path: a/b}\ndataset: {train: {path: x}}\nlora: {r: '${RANK}'}\nhub: {}\n"
    )
    (tmp_path / "trained.yaml").write_text(rerunnable_recipe(load_recipe(str(tmp_path / "r.yaml"))))
    assert load_recipe(str(tmp_path / "trained.yaml")).recipe.lora is not None


def test_a_secret_is_written_as_a_reference(loaded: LoadedRecipe) -> None:
    text = rerunnable_recipe(loaded)
    assert "swordfish" not in text
    assert "  token: ${DATA_TOKEN} # base.yaml:3\n" in text
    assert (
        "    - path: https://example.org/us/pairs.jsonl # base.yaml:7, https://example.org/${ORG}/pairs.jsonl\n" in text
    )


@pytest.mark.parametrize("name", ["chat.jinja2", "chat.j2", "chat.JINJA"])
def test_a_template_file_of_each_extension_has_an_absolute_path(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{{ messages }}")
    (tmp_path / "r.yaml").write_text(
        f"model: {{model_name_or_path: a/b, chat_template: {name}}}\ndataset: {{train: {{path: x.jsonl}}}}\n"
    )
    loaded = load_recipe(str(tmp_path / "r.yaml"))
    assert model_with_absolute_paths(loaded).chat_template == str(tmp_path / name)
    assert f"  chat_template: {tmp_path / name} #" in rerunnable_recipe(loaded)


def test_a_recipe_has_its_overrides_absolute_paths_and_no_output_dir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run directory exists already: a second training needs another one."""
    (tmp_path / "x.jsonl").write_text("")
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    (tmp_path / "zero.json").write_text('{"zero_optimization": {"stage": 2}}')
    (tmp_path / "r.yaml").write_text(
        "output_dir: runs/r\nmodel: {model_name_or_path: a/b, chat_template: chat.jinja}\ndataset: {train: {path: x.jsonl}}\n"
        "launch: {num_processes: 2, deepspeed_config: zero.json}\ntags: [first]\n"
    )
    monkeypatch.setenv("RATE", "2e-4")
    overrides = ["training.seed=3", "training.learning_rate=${RATE}", "model.subfolder=null"]
    loaded = load_recipe(str(tmp_path / "r.yaml"), overrides)
    text = rerunnable_recipe(loaded)
    assert "output_dir" not in [line.partition(":")[0] for line in text.splitlines()]
    assert f"  - path: {tmp_path / 'x.jsonl'} #" in text or f"    path: {tmp_path / 'x.jsonl'} #" in text
    assert f"  chat_template: {tmp_path / 'chat.jinja'} #" in text
    assert f"  deepspeed_config: {tmp_path / 'zero.json'} #" in text
    (tmp_path / "trained.yaml").write_text(text)
    again = load_recipe(str(tmp_path / "trained.yaml")).recipe
    assert (again.training.seed, again.training.learning_rate, again.tags) == (3, 2e-4, ["first"])
    assert overridden_values(loaded) == {
        "training.seed": 3, "training.learning_rate": 2e-4, "model.subfolder": None,
    }  # fmt: skip


@pytest.mark.parametrize("name", [recipe.name for recipe in shipped_recipes()])
def test_the_text_of_a_recipe_that_extends_a_shipped_one_is_complete(name: str, tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text(f"extends: {name}\ntraining: {{seed: 1234}}\n")
    loaded = load_recipe(str(child))
    (tmp_path / "trained.yaml").write_text(rerunnable_recipe(loaded))
    again = load_recipe(str(tmp_path / "trained.yaml")).recipe
    exclude = {"extends": True, "output_dir": True, "dataset": {"train", "eval"}}
    assert again.model_dump(exclude=exclude) == loaded.recipe.model_dump(exclude=exclude)
    assert again.training.seed == 1234
