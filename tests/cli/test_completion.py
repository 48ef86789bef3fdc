"""Shell completion of recipes, runs, models, codes and `--set` keys, through bash and without heavy imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orpo_cli.cli.completion import (
    BASH_SCRIPT,
    complete_code_or_key,
    complete_override,
    complete_recipe,
    complete_resume,
    complete_run,
    complete_run_or_model,
    complete_run_or_recipe,
    words_to_complete,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a recipe, two runs and a model."""
    for name in ("runs/first/run.json", "runs/second/run.json", "models/base/config.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("{}")
    for name in ("mine.yaml", "model.gguf", "notes.txt", ".hidden.yaml"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_recipes_are_shipped_names_and_files(folder):
    assert {"mine.yaml", "mistral-7b-full", "mistral-7b-qlora", "models/"} <= set(complete_recipe("m"))
    assert "quickstart" in complete_recipe("quick")
    assert complete_recipe("./mi") == ["./mine.yaml"]
    assert complete_recipe("no-such/") == []
    assert not any("hidden" in each or "notes" in each for each in complete_recipe(""))


def test_runs_and_models_are_found_below_folders(folder):
    assert complete_run("r") == ["runs/"]
    assert complete_run("runs/") == ["runs/first", "runs/second"]
    assert complete_run(f"{folder}/runs/s") == [f"{folder}/runs/second"]
    assert complete_run_or_model("mo") == ["model.gguf", "models/"]
    assert complete_run_or_model("models/") == ["models/base"]
    assert complete_run_or_recipe("m")[:1] == ["models/"]


def test_resume_has_its_two_words_and_checkpoints(folder):
    (folder / "runs/first/checkpoints/checkpoint-4").mkdir(parents=True)
    assert complete_resume("")[:2] == ["auto", "never"]
    assert complete_resume("runs/first/checkpoints/") == ["runs/first/checkpoints/checkpoint-4"]


def test_keys_of_the_recipe_are_completed_and_then_their_values():
    assert complete_override("training.learning_r") == ["training.learning_rate="]
    assert complete_override("model.dt") == ["model.dtype="]
    assert "launch.slurm.partition=" in complete_override("launch.")
    assert complete_override("model.dtype=f") == ["model.dtype=float32", "model.dtype=float16"]
    assert complete_override("training.push_to_hub=t") == ["training.push_to_hub=true"]
    assert complete_override("no.such=") == []
    assert complete_override("training.beta=") == []  # null alone would be inserted
    assert complete_override("output_") == ["output_dir="]


def test_problem_codes_are_completed():
    assert complete_code_or_key("unknown-k") == ["unknown-key"]
    assert complete_code_or_key("training.nll") == ["training.nll_weight"]


def test_only_the_called_command_is_imported_for_a_completion(monkeypatch):
    assert words_to_complete() == []
    monkeypatch.setenv("_ORPO_COMPLETE", "complete_zsh")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "orpo train qui")
    assert words_to_complete() == ["train", "qui"]


def test_the_bash_script_completes_values_after_an_equals_sign_and_adds_no_space_to_keys(folder):
    """The script of `--install-completion` in bash itself, for a line of words at whose end the cursor is."""
    script = BASH_SCRIPT % {"complete_func": "_orpo", "autocomplete_var": "_ORPO_COMPLETE", "prog_name": "orpo"}
    fake = 'compopt() { echo "nospace"; }\ncomplete() { :; }\n'
    program = f"""
line() {{
    COMP_LINE="$1" COMP_POINT=${{#1}} COMP_WORDBREAKS=$' \\t\\n=:'
    _orpo {Path(sys.executable).with_name("orpo")}
    (IFS=,; echo "${{COMPREPLY[*]}}")
}}
line "orpo train mine"
line "orpo plan mine.yaml --set model.dty"
line "orpo plan mine.yaml --set model.dtype=bf"
line "orpo eval runs/"
line "orpo train mine.yaml --resume a"
line "orpo recipes quick"
line "orpo recipes sh"
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", fake + script + program],
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines == [
        "mine.yaml",
        "nospace",
        "model.dtype=",
        "bfloat16",
        "runs/first,runs/second",
        "auto",
        "quickstart",
        "show",
    ]
    assert done.stderr == ""
