"""Recipe of the winner: it trains what the trial trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orpo_cli.recipe.load import load_recipe
from orpo_cli.sweep.record import SweepDir
from orpo_cli.sweep.winner import winner_recipe

RECIPE = """\
name: small
output_dir: runs/small
model:
  model_name_or_path: org/model
lora:
  r: 8
dataset:
  train:
    - path: one.jsonl
      weight: 1.0
    - path: two.jsonl
  eval: {path: heldout.jsonl}
training:
  learning_rate: 1.0e-5
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "small.yaml").write_text(RECIPE)
    for name in ("one", "two", "three", "heldout"):
        (folder / f"{name}.jsonl").write_text("{}\n")
    return tmp_path


def written(overrides: list[str], recipe: str = "recipes/small.yaml") -> str:
    sweep = SweepDir(Path("runs/small-sweep").absolute())
    sweep.root.mkdir(parents=True)
    trial = load_recipe(recipe, overrides)
    text = winner_recipe(trial, recipe, [each.partition("=")[0] for each in overrides], sweep, ["a note"])
    sweep.winner.write_text(text)
    return text


def values(path: str, overrides: list[str] | None = None) -> dict[str, Any]:
    found = load_recipe(path, overrides or []).recipe.model_dump(mode="json")
    return {key: value for key, value in found.items() if key not in ("name", "output_dir", "extends")}


def test_it_has_only_the_changed_keys(project: Path) -> None:
    overrides = ["training.learning_rate=5e-05", "lora.r=16", "training.beta=0.1"]
    assert written(overrides) == (
        "# a note\n\nextends: ../../recipes/small.yaml\n\nname: small-winner\noutput_dir: runs/small-winner\n\n"
        "training:\n  learning_rate: 5.0e-5\n  beta: 0.1\n\nlora:\n  r: 16\n"
    )
    assert values("runs/small-sweep/winner.yaml") == values("recipes/small.yaml", overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["lora.target_modules=[q_proj, v_proj]", "training.optim=adamw_torch"],
        ["lora=null"],
        ["lora={r: 4, lora_alpha: 8}"],
        ["training.run_name=a: b # c"],
        ["dataset.eval={test_size: 0.1}"],
    ],
)
def test_it_trains_what_the_trial_trained(project: Path, overrides: list[str]) -> None:
    written(overrides)
    assert values("runs/small-sweep/winner.yaml") == values("recipes/small.yaml", overrides)


def test_a_changed_item_of_a_list_gives_the_complete_list_with_absolute_paths(project: Path) -> None:
    overrides = ["dataset.train[1].weight=2.0"]
    written(overrides)
    sources = values("runs/small-sweep/winner.yaml")["dataset"]["train"]
    assert [each["weight"] for each in sources] == [1.0, 2.0]
    assert [each["path"] for each in sources] == [str(project / "recipes" / f"{name}.jsonl") for name in ("one", "two")]


def test_a_path_of_the_command_line_is_found_from_the_written_recipe(project: Path) -> None:
    (project / "here.jsonl").write_text("{}\n")
    written(["dataset.eval.path=here.jsonl"])
    assert values("runs/small-sweep/winner.yaml")["dataset"]["eval"][0]["path"] == str(project / "here.jsonl")


def test_secrets_stay_references_and_comments_one_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "hf_secretsecretsecret1234")
    trial = load_recipe("recipes/small.yaml", ["model.token=${MY_TOKEN}", "lora.r=16"])
    sweep = SweepDir(project / "sweep")
    text = winner_recipe(trial, "recipes/small.yaml", ["model.token", "lora.r", "model"], sweep, ["a\nmodel: {x: 1}"])
    assert "hf_secret" not in text
    assert "token: ${MY_TOKEN}" in text
    assert all(line.startswith("#") for line in text.splitlines()[: text.splitlines().index("")])
    assert load_recipe_text(project, text).model.token == "hf_secretsecretsecret1234"


def load_recipe_text(project: Path, text: str) -> Any:
    (project / "sweep").mkdir()
    (project / "sweep" / "winner.yaml").write_text(text)
    return load_recipe(str(project / "sweep" / "winner.yaml")).recipe


def test_a_shipped_recipe_is_extended_by_its_name(project: Path) -> None:
    text = written(["training.beta=0.5"], "llama3-8b-qlora")
    assert "extends: llama3-8b-qlora\n" in text
    assert values("runs/small-sweep/winner.yaml") == values("llama3-8b-qlora", ["training.beta=0.5"])


def test_directories_outside_the_project_are_absolute(project: Path, tmp_path: Path) -> None:
    other = tmp_path.parent / f"{tmp_path.name}-runs"
    text = written([f"output_dir={other}/small"])
    assert f"output_dir: {other}/small-winner\n" in text
