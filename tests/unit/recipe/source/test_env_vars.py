"""Environment variables in the values of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orpo_cli.errors import Problem, RecipeError
from orpo_cli.recipe.load import LoadedRecipe, load_recipe
from orpo_cli.secret_patterns import looks_secret

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


MODEL = "model: {{model_name_or_path: a/b, token: '{}'}}\ndataset: {{train: {{path: x.jsonl}}}}\n"
SECRET_NAMES = (
    "HF_TOKEN", "WANDB_API_KEY", "password", "DB_PASSWORD", "client_secret", "token", "hubToken", "GITHUB_PAT", "SENTRY_DSN",
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "DATABASE_URL", "TEST_DATABASE_URL", "PGPASSWORD",
    "AZURE_STORAGE_CONNECTION_STRING", "GOOGLE_APPLICATION_CREDENTIALS", "MYSQL_PWD", "SECRET_KEY_BASE", "KEY",
)  # fmt: skip
OTHER_NAMES = (
    "TOKENS", "LR", "max_tokens", "KEYBOARD", "MONKEY", "include_num_tokens_seen", "TOKENIZERS_PARALLELISM", "NUM_TOKENS",
    "TOKENS_PER_BATCH", "PWD", "EOS_TOKEN", "PATTERN", "DATA_URL", "SECRETARY", "KEY_COLUMN", "PUBLIC_KEY", "HF_TOKEN_PATH",
)  # fmt: skip
SECRET_TEXTS = {
    "hf": "hf_" + "a" * 30,
    "github": "ghp_" + "a" * 36,
    "aws": "AKIAABCDEFGHIJKLMNOP",
    "openai": "sk-" + "a" * 30,
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0xx.c2lnbmF0dXJl",
    "password": "https://me:swordfish@example.org/x",
    "signed": "https://example.org/x.jsonl?X-Goog-Signature=swordfish1",
}


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_secret_variable_is_refused_outside_of_settings_for_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Also where it is not set, or has a default; never with its value."""
    reference = f"${{{name}}}"
    more = (
        f"name: n-{reference}\nlora: {{target_modules: [q_proj, '{reference}']}}\ntraining: {{seed: '{reference}'}}\n"
    )
    overrides = (f"dataset.train.path=s3://x/${{{name}:-y}}.jsonl", f"dataset.train.columns={{chosen: '{reference}'}}")
    for value in ("swordfish", None):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
        found = problems(tmp_path, more, *overrides)
        assert {path: (problem.code, problem.line) for path, problem in found.items()} == {
            "name": ("secret-variable", 3),
            "lora.target_modules[1]": ("secret-variable", 4),
            "training.seed": ("secret-variable", 5),
            "dataset.train.path": ("secret-variable", None),
            "dataset.train.columns.chosen": ("secret-variable", None),
        }
        assert all(name in problem.message for problem in found.values())
        assert not [problem for problem in found.values() if "swordfish" in problem.text()]


@pytest.mark.parametrize("kind", SECRET_TEXTS)
def test_a_variable_with_a_secret_is_refused_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    secret = SECRET_TEXTS[kind]
    monkeypatch.setenv("X", secret)
    monkeypatch.setenv("HEAD", secret[:-9])
    monkeypatch.setenv("TAIL", secret[-9:])
    found = problems(tmp_path, "name: ${HEAD}${TAIL}\n", "dataset.train.path=${X}")
    assert {path: problem.code for path, problem in found.items()} == {
        "dataset.train.path": "secret-variable",
        "name": "secret-variable",
    }
    assert not [problem for problem in found.values() if secret in problem.text() or "swordfish" in problem.text()]


def test_a_password_inserted_into_a_url_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORD", "swordfish")
    for url in ("https://me:${WORD}@example.org/x.jsonl", "https://example.org/x.jsonl?sig=${WORD}"):
        assert problems(tmp_path, "", f"dataset.train.path={url}")["dataset.train.path"].code == "secret-variable"


def test_a_secret_variable_is_refused_in_extends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "swordfish")
    problem = problems(tmp_path, "extends: ${MY_TOKEN}.yaml\n")["extends"]
    assert (problem.code, problem.line) == ("secret-variable", 3)
    (tmp_path / "base.yaml").write_text("training:\n  run_name: ${MY_TOKEN}\n")
    problem = problems(tmp_path, "extends: base.yaml\n")["training.run_name"]
    assert (problem.code, problem.file, problem.line) == ("secret-variable", str(tmp_path / "base.yaml"), 2)


def test_a_key_and_an_escaped_reference_are_no_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "swordfish")
    more = "lora: {rank_pattern: {'${MY_TOKEN}': 4}}\nname: $${MY_TOKEN}\n"
    recipe = load(tmp_path, more).recipe
    assert recipe.lora is not None
    assert (recipe.lora.rank_pattern, recipe.name) == ({"${MY_TOKEN}": 4}, "${MY_TOKEN}")


def test_a_setting_for_a_secret_takes_any_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MY_TOKEN", "ANY"):
        monkeypatch.setenv(name, "hf_" + "a" * 30)
        (tmp_path / "r.yaml").write_text(MODEL.format(f"${{{name}}}"))
        loaded = load_recipe(str(tmp_path / "r.yaml"))
        assert loaded.recipe.model.token == "hf_" + "a" * 30
        assert loaded.source_map.secrets == {name}


@pytest.mark.parametrize("name", ["DATA_TOKEN", "ANY"])
def test_the_value_of_a_setting_for_a_secret_is_not_in_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "[swordfish, swordfish]")
    (tmp_path / "r.yaml").write_text(MODEL.format(f"${{{name}}}") + "training: {hub_token: '${ANY}'}\n")
    monkeypatch.setenv("ANY", "swordfish")
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(tmp_path / "r.yaml"))
    assert "training.hub_token" in {problem.path for problem in caught.value.problems}
    assert not [problem for problem in caught.value.problems if "swordfish" in problem.text()]


def test_secret_names_are_recognised() -> None:
    assert [name for name in SECRET_NAMES if not looks_secret(name)] == []
    assert [name for name in OTHER_NAMES if looks_secret(name)] == []


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_a_variable_with_a_similar_name_is_inserted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "pairs")
    assert load(tmp_path, f"name: ${{{name}}}\n").recipe.name == "pairs"
