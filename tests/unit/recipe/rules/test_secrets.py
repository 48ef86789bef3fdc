"""Secrets in recipes are found, and messages never show them."""

from __future__ import annotations

from pathlib import Path

import pytest

from orpo_cli.errors import Problem, RecipeError
from orpo_cli.recipe.load import load_recipe

GOOD = "model:\n  model_name_or_path: a/b\ndataset:\n  train:\n    path: x.jsonl\n"
TAIL = "0123456789abcdefABCDEF0123456789abcdefABCD"
SECRETS = [
    f"hf_{TAIL}",
    "AKIA" + "ABCDEFGH01234567",
    f"ghp_{TAIL}",
    f"github_pat_{TAIL}",
    f"glpat-{TAIL}",
    f"sk-proj-{TAIL}",
    "-----BEGIN RSA PRIVATE KEY-----",
    f"https://me:{TAIL}@example.org/x.jsonl",
    f"https://example.org/x.jsonl?X-Amz-Signature={TAIL}",
]


def problems(folder: Path, text: str, *overrides: str) -> list[Problem]:
    (folder / "r.yaml").write_text(text)
    try:
        return list(load_recipe(str(folder / "r.yaml"), overrides).warnings)
    except RecipeError as error:
        return list(error.problems)


@pytest.mark.parametrize("secret", SECRETS, ids=lambda secret: secret[:12])
@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{GOOD}name: '@'\n", 6),
        (f"{GOOD}name: n  # @\n", 6),
        (f"{GOOD}training:\n  seed: '@'\n", 7),
        (f"{GOOD}training:\n  hub_token: '@'\n", 7),
        (f"{GOOD}export:\n  formats: [safetensors, '@']\n", 7),
        (f"{GOOD}unheard_of:\n  things:\n    - '@'\n", 8),
    ],
    ids=["value", "comment", "wrong type", "hub_token", "list", "unknown section"],
)
def test_a_secret_is_found_everywhere_and_never_shown(tmp_path: Path, text: str, line: int, secret: str) -> None:
    found = problems(tmp_path, text.replace("@", secret))
    (problem,) = (each for each in found if each.code == "secret-in-recipe")
    assert problem.severity == "error"
    assert problem.line == line
    assert not any(secret in each.text() or TAIL in each.text() for each in found)


def test_the_value_of_a_key_with_a_secret_name_is_a_secret(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, GOOD + "training:\n  accelerator_config: path\n  optim_args: x=1\n  optim: sgd\n", "x_password=correcthorse")[:1]  # fmt: skip
    assert problem.code == "secret-in-recipe"
    assert problem.path == "x_password"
    assert "correcthorse" not in problem.text()


def test_a_reference_to_a_secret_variable_is_allowed_but_no_secret_in_its_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRETS[0])
    good = GOOD.replace("a/b", "a/b\n  token: @")
    assert problems(tmp_path, good.replace("@", "${MY_TOKEN}")) == []
    (problem,) = problems(tmp_path, good.replace("@", f"${{UNSET_TOKEN:-{SECRETS[0]}}}"))
    assert (problem.code, problem.path) == ("secret-in-recipe", "model.token")


def test_a_secret_in_a_key_is_found_and_never_shown(tmp_path: Path) -> None:
    found = problems(tmp_path, f"{GOOD}unheard_of:\n  {SECRETS[0]}: 1\n")
    assert ("secret-in-recipe", "unheard_of", 6) in {(each.code, each.path, each.line) for each in found}
    assert not any(TAIL in each.text() for each in found)


@pytest.mark.parametrize(
    "line",
    [
        "name: hf_transfer",
        "name: sk-learn-like",
        f"name: n{TAIL[:39]}",  # a commit
        "training: {hub_token: <HUB_TOKEN>}",  # as a configuration prints it
        "hub: {repo_id: me/ghp_model}",
    ],
)
def test_values_that_only_resemble_secrets_are_allowed(tmp_path: Path, line: str) -> None:
    assert not any(each.code == "secret-in-recipe" for each in problems(tmp_path, f"{GOOD}{line}\n"))
