"""Environment variables in the values of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orpo_cli.errors import Problem, RecipeError
from orpo_cli.recipe.load import LoadedRecipe, load_recipe
from orpo_cli.recipe.source.env_vars import looks_secret

GOOD = "model: {model_name_or_path: a/b}\ndataset: {train: {path: x.jsonl}}\n"


def load(folder: Path, more: str, *overrides: str) -> LoadedRecipe:
    (folder / "r.yaml").write_text(GOOD + more)
    return load_recipe(str(folder / "r.yaml"), overrides)


def problems(folder: Path, more: str, *overrides: str) -> dict[str, Problem]:
    with pytest.raises(RecipeError) as caught:
        load(folder, more, *overrides)
    return {problem.path: problem for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("learning_rate: ${X}", "5e-6", 5e-6),
        ('learning_rate: "${X}"', "5e-6", 5e-6),
        ("learning_rate: ${X:-1e-5}", None, 1e-5),
        ("learning_rate: ${X:-1e-5}", "", 1e-5),
        ("learning_rate: ${X:-1e-5}", "2e-5", 2e-5),
        ("bf16: ${X}", "true", True),
        ("report_to: ${X}", "[wandb, mlflow]", ["wandb", "mlflow"]),
        ("run_name: ${X:-}", None, ""),
        ("run_name: lr-${X}-b${X:-2}", "1", "lr-1-b1"),
        ("run_name: $${X} and ${X}", "1", "${X} and 1"),
        ("run_name: $X and $$", "1", "$X and $$"),
        ("run_name: ${X}", "20240101", "20240101"),
        ("run_name: ${X}", "12345e6", "12345e6"),
        ("run_name: ${X}", "true", "true"),
        ("run_name: ${X}", "a: b: c", "a: b: c"),
        ("run_name: ${X}", "step #1", "step #1"),
        ("run_name: ${X}", "*star ${Y}", "*star ${Y}"),
        ("seed: ${X}", "null", None),
    ],
)
def test_a_reference_is_replaced_and_a_single_reference_is_read_as_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, value: str | None, expected: Any
) -> None:
    monkeypatch.delenv("X", raising=False)
    if value is not None:
        monkeypatch.setenv("X", value)
    training = load(tmp_path, f"training:\n  {text}\n").recipe.training
    assert getattr(training, text.split(":")[0]) == expected


def test_references_work_in_lists_mappings_parents_and_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.setenv("RANK", "4")
    monkeypatch.setenv("PARENT", "base")
    (tmp_path / "base.yaml").write_text("lora: {rank_pattern: {q_proj: '${RANK}'}}\n")
    more = "extends: ${PARENT}.yaml\nmerge: {max_shard_size: '${RANK}GB'}\n"
    loaded = load(tmp_path, more, "dataset.train=[{path: '${DATA}/a'}, {path: '${DATA}/b'}]", "lora.r=${RANK}")
    assert [source.path for source in loaded.recipe.dataset.train] == ["/data/a", "/data/b"]
    assert loaded.recipe.lora is not None
    assert (loaded.recipe.lora.r, loaded.recipe.lora.rank_pattern) == (4, {"q_proj": 4})
    assert loaded.recipe.merge.max_shard_size == "4GB"
    assert loaded.origin_kind("lora.rank_pattern.q_proj") == "environment"
    assert loaded.origin_kind("lora.r") == "override"


def test_every_unset_variable_is_reported_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("X", raising=False)
    monkeypatch.delenv("Y", raising=False)
    found = problems(tmp_path, "name: ${X}\ntraining:\n  run_name: a-${Y}-${1}\n", "lora.r=${X}")
    assert {path: (problem.code, problem.file == "--set", problem.line) for path, problem in found.items()} == {
        "name": ("env-variable-unset", False, 3),
        "training.run_name": ("env-reference", False, 5),
        "lora.r": ("env-variable-unset", True, None),
    }
    assert "X" in found["name"].message


@pytest.mark.parametrize("text", ["${}", "${X", "${1X}", "${X-a}", "${X:?no}", "${X:-${Y}}", "a ${ b"])
def test_an_invalid_reference_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("X", "x")
    monkeypatch.setenv("Y", "y")
    assert problems(tmp_path, f'name: "{text}"\n')["name"].code == "env-reference"


def test_a_variable_that_the_child_overrides_may_be_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("X", raising=False)
    (tmp_path / "base.yaml").write_text("training: {seed: '${X}'}\n")
    assert load(tmp_path, "extends: base.yaml\ntraining: {seed: 1}\n").recipe.training.seed == 1
    assert load(tmp_path, "extends: base.yaml\n", "training.seed=2").recipe.training.seed == 2


def test_an_error_names_the_variable_and_its_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED", "many")
    problem = problems(tmp_path, "training:\n  seed: ${SEED}\n")["training.seed"]
    assert problem.message == "must be an integer, but `${SEED}` is the text 'many'."
    assert problem.line == 4


@pytest.mark.parametrize("name", ["API_KEY", "DATA_TOKEN", "PASSWORD", "MY_SECRET", "hub_token"])
def test_the_value_of_a_secret_variable_is_not_in_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "swordfish")
    found = problems(
        tmp_path, f"training: {{seed: '${{{name}}}', optim: 'x-${{{name}}}', evaluation_strategy: '${{{name}}}'}}\n"
    )
    assert {"training.seed", "training.optim", "training.evaluation_strategy"} <= found.keys()
    assert not [problem for problem in found.values() if "swordfish" in problem.text()]
    assert f"${{{name}}}" in found["training.seed"].message


def test_a_token_from_the_environment_is_not_written_in_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "hf_" + "a" * 30
    monkeypatch.setenv("DATA_TOKEN", token)
    url = "https://example.org/pairs.jsonl?token="
    assert load(tmp_path, "", f"dataset.train.path={url}${{DATA_TOKEN}}").recipe.dataset.train[0].path == url + token
    assert problems(tmp_path, "", f"dataset.train.path={url}{token}")["dataset.train.path"].code == "secret-in-recipe"


def test_secret_names_are_recognised() -> None:
    assert all(map(looks_secret, ("HF_TOKEN", "WANDB_API_KEY", "password", "DB_PASSWORD", "client_secret", "token")))
    assert not any(map(looks_secret, ("TOKENS", "LR", "max_tokens", "KEYBOARD", "MONKEY", "include_num_tokens_seen")))
