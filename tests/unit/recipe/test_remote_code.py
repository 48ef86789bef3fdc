"""`trust_remote_code` is a warning that names what will run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orpo_cli.errors import Problem, RecipeError
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.remote_code import code_files
from orpo_cli.rundir import RunDir

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write(folder: Path, **model: Any) -> Path:
    values = {"model_name_or_path": "acme/custom", "trust_remote_code": True, **model}
    path = folder / "r.yaml"
    path.write_text(json.dumps({"model": values, "dataset": {"train": {"path": "x.jsonl"}}}))
    return path


def warning(path: Path, *overrides: str) -> Problem:
    (found,) = load_recipe(str(path), overrides).warnings
    return found


def model_folder(folder: Path) -> Path:
    folder.mkdir()
    code = {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_x.XModel"}
    (folder / "config.json").write_text(json.dumps({"auto_map": code}))
    tokenizers = {"AutoTokenizer": ["other/code--tokenization_x.X", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": tokenizers}))
    (folder / "modeling_x.py").write_text(
        "import os\nfrom .layers import Layer\nfrom .configuration_x import XConfig\n"
    )
    (folder / "layers.py").write_text("from . import nothing\n")
    return folder


def test_the_warning_names_repository_and_revision(tmp_path: Path) -> None:
    found = warning(write(tmp_path))
    assert (found.code, found.severity, found.path) == ("trust-remote-code", "warning", "model.trust_remote_code")
    assert found.line == 1
    assert "the repository acme/custom at revision main" in found.message
    assert "model_revision to its commit" in str(found.remedy)
    pinned = warning(write(tmp_path, model_revision=COMMIT))
    assert f"at revision {COMMIT}" in pinned.message
    assert "model_revision" not in str(pinned.remedy)


def test_the_warning_names_the_folder_and_its_files(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "custom")
    files = ["configuration_x.py", "modeling_x.py", "tokenization_x.py of the repository other/code", "layers.py"]
    assert sorted(code_files(folder)) == sorted(files)
    message = warning(write(tmp_path, model_name_or_path="custom")).message
    assert f"the folder {folder}" in message
    assert all(file in message for file in files)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("[")
    assert "its configuration names none" in warning(write(tmp_path, model_name_or_path="custom")).message


@pytest.mark.parametrize(
    "text", ["[]", '{"auto_map": "x.Y"}', '{"auto_map": {"a": [1, {"b": 2}]}}', "\0", "[" * 100_000]
)
def test_a_damaged_configuration_is_no_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert code_files(tmp_path) in ([], ["x.py"])


def test_without_the_setting_there_is_no_warning(tmp_path: Path) -> None:
    assert load_recipe(str(write(tmp_path, trust_remote_code=False))).warnings == ()
    assert load_recipe(str(write(tmp_path, model_name_or_path="package://p/x.gguf"))).warnings == ()


def test_strict_makes_it_an_error_and_all_commands_warn(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = write(tmp_path)
    with pytest.raises(RecipeError):
        load_recipe(str(recipe), strict=True)
    for command in ("validate", "plan"):
        done = orpo_here(command, recipe)
        assert "trust-remote-code" in done.stderr
        assert done.returncode == 0
        assert orpo_here(command, recipe, "--strict").returncode == 2


def test_the_commands_that_load_the_model_of_a_run_warn(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    from support.tiny_run import make_base, make_run

    base = make_base(tmp_path / "base")
    run = make_run(tmp_path / "run", base)
    plan = run.read_plan()
    RunDir(run.root).write_plan(
        plan.model_copy(update={"model": plan.model.model_copy(update={"trust_remote_code": True})})
    )
    for command in (("generate", run.root, "--prompt", "x", "--max-new-tokens", "1"), ("merge", run.root)):
        done = orpo_here(*command)
        assert done.returncode == 0, done.stderr
        assert f"Python code from the folder {base}" in done.stderr
        assert "[trust-remote-code]" in done.stderr
