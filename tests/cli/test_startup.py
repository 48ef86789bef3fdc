"""Start-up: light commands import nothing heavy. Behaviour of the command line in pipes, with --json and on wrong input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HEAVY = ("torch", "transformers", "trl", "peft", "datasets")
NOT_NEEDED = (
    "rich",
    "huggingface_hub",
    "orpo_cli.planning",
    "orpo_cli.rundir",
    "orpo_cli.cli.init",
)
RECIPES = Path(__file__).parents[2] / "recipes"


def run_and_list_imports(
    names: tuple[str, ...], *arguments: str, environment: dict[str, str] | None = None
) -> list[str]:
    """The lines that a command prints in a new process; the last: its exit code, and which of these modules it imported."""
    program = (
        "import sys\n"
        "from orpo_cli.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    code = ended.code\n"
        f"print(code, [name for name in {names} if name in sys.modules])"
    )
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
    return done.stdout.splitlines()


def test_validate_imports_only_what_it_needs() -> None:
    recipes = sorted(map(str, RECIPES.rglob("*.yaml")))
    assert recipes
    assert run_and_list_imports(HEAVY + NOT_NEEDED, "validate", *recipes)[-1] == "0 []"


def test_validate_of_a_bad_recipe_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("modle: {}\n")
    assert run_and_list_imports((*HEAVY, "rich"), "validate", str(tmp_path / "bad.yaml"))[-1] == "2 []"


def test_submit_imports_nothing_heavy() -> None:
    assert run_and_list_imports(HEAVY, "submit", "quickstart", "--to", "slurm", "--dry-run")[-1] == "0 []"


def test_explain_imports_neither_heavy_modules_nor_the_schema() -> None:
    assert (
        run_and_list_imports((*HEAVY, "orpo_cli.recipe.schema", "yaml", "rich"), "explain", "unknown-key")[-1] == "0 []"
    )


def test_a_second_plan_imports_no_library_of_models_and_is_the_same(tmp_path: Path) -> None:
    from support.tiny import write_recipe

    recipe = write_recipe(tmp_path)
    environment = {**os.environ, "ORPO_CACHE": str(tmp_path / "cache"), "ORPO_PAIR_CACHE": "1"}
    first = run_and_list_imports(HEAVY, "plan", str(recipe), "--json", environment=environment)
    second = run_and_list_imports(HEAVY, "plan", str(recipe), "--json", environment=environment)
    assert (second[-1], first[-1] != second[-1]) == ("0 []", True)
    assert stable_plan(first) == stable_plan(second)
    data = tmp_path / "train.jsonl"
    data.write_text(data.read_text().replace(" ", "  again "))
    longer = run_and_list_imports(HEAVY, "plan", str(recipe), "--json", environment=environment)
    assert stable_plan(longer)["estimate"]["step"]["tokens"] > stable_plan(second)["estimate"]["step"]["tokens"]


def stable_plan(lines: list[str]) -> dict[str, Any]:
    """The document of a plan without what another process on the machine changes: free memory, and speed."""
    document: dict[str, Any] = json.loads("\n".join(lines[:-1]))
    estimate = document["estimate"]
    del estimate["available_bytes"], estimate["step"]["seconds"], estimate["training"]["seconds"]
    for section in ("training", "engine"):
        for value in document[section].values():
            value.pop("reason", None)
    return document


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    from orpo_cli.cli.commands import COMMANDS

    assert run_and_list_imports(HEAVY, "--help")[-1] == "0 []"
    done = subprocess.run([sys.executable, "-m", "orpo_cli"], capture_output=True, text=True, timeout=120, check=False)
    assert all(f" {name.replace('_', '-')} " in done.stdout + done.stderr for name in COMMANDS)


def test_a_misspelt_command_exits_2_and_names_the_nearest(orpo_here: Callable[..., Any]) -> None:
    done = orpo_here("validat", "x.yaml")
    assert done.returncode == 2
    assert "validate" in done.stderr


def test_plan_prints_plain_lines_or_json(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    from support.tiny import write_recipe

    recipe = write_recipe(tmp_path)
    text = orpo_here("plan", recipe, "--all")
    assert text.returncode == 0, text.stderr
    assert "training.beta = 0.25  # the paper's lambda" in text.stdout
    document = json.loads(orpo_here("plan", recipe, "--json").stdout)
    assert document["training"]["beta"] == {
        "value": 0.25, "origin": "decided", "reason": document["training"]["beta"]["reason"]
    }  # fmt: skip
    assert document["training"]["max_steps"]["origin"] == "recipe"
    overridden = json.loads(orpo_here("plan", recipe, "--set", "training.beta=1", "--json").stdout)
    assert overridden["training"]["beta"]["origin"] == "override"


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m orpo_cli plan {RECIPES / 'paper' / 'opt-125m-hh.yaml'} --quiet | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines()[-1] == "0"
    assert "Traceback" not in done.stderr


def test_validate_prints_every_error_and_exits_2(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    (tmp_path / "a.yaml").write_text("modle: {}\n")
    (tmp_path / "b.yaml").write_text(
        "model: {model_name_or_path: x}\ndataset: {train: {path: y}}\ntraining: {bf16: 3}\n"
    )
    done = orpo_here("validate", tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "c.yaml")
    assert done.returncode == 2
    assert f"{tmp_path / 'a.yaml'}:1:1: modle" in done.stderr
    assert f"{tmp_path / 'b.yaml'}:3:12: training.bf16" in done.stderr
    assert "c.yaml: no such recipe file" in done.stderr
    document = json.loads(orpo_here("validate", tmp_path / "a.yaml", "--json").stdout)
    assert {"code", "path", "file", "line", "column", "message", "remedy"} <= set(document["problems"][0])


def test_validate_mentions_local_data_that_does_not_exist_and_exits_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orpo_here: Callable[..., Any]
) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "there.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    recipe = Path("recipes/r.yaml")
    recipe.write_text(
        "model: {model_name_or_path: some/model}\ndataset:\n  train:\n    - path: data/none.jsonl\n    - path: there.jsonl\n"
        "    - path: some/dataset\n    - path: https://example.org/x.jsonl\n  eval: {path: /no/such/*.jsonl}\n"
    )
    searched = f"searched in {tmp_path / 'recipes'} and {tmp_path}"
    missing = f"recipes/r.yaml:4:7: dataset.train[0].path: data/none.jsonl: does not exist here ({searched})."
    done = orpo_here("validate", recipe)
    assert (done.returncode, done.stdout) == (0, "recipes/r.yaml: ok\n")
    first, second = done.stderr.splitlines()
    assert first == f"note: {missing} `orpo train` needs it."
    assert "eval.path: /no/such/*.jsonl: no file here matches. " in second
    assert orpo_here("validate", recipe, "--strict").returncode == 0
    assert orpo_here("validate", recipe, "--quiet").stderr == ""
    document = json.loads(orpo_here("validate", recipe, "--json").stdout)
    assert (document["status"], len(document["notes"])) == ("ok", 2)
    assert document["notes"][0].startswith(missing)
    assert (
        "one.jsonl: does not exist here"
        in orpo_here("validate", recipe, "--set", "dataset.train={path: one.jsonl}").stderr
    )
    assert orpo_here("validate", "quickstart").stderr == ""
    for model, mentioned in (("./no-model", True), ("../no.gguf", True), (str(tmp_path), False), ("some/model", False)):
        shown = orpo_here("validate", recipe, "--set", f"model.model_name_or_path={model}").stderr
        assert (f"model.model_name_or_path: {model}: does not exist here" in shown) == mentioned


@pytest.mark.parametrize("arguments", [["nonsense"], ["train"], ["plan", "x", "--nonsense"]])
def test_a_wrong_command_line_exits_2_without_a_traceback(arguments: list[str], orpo_here: Callable[..., Any]) -> None:
    done = orpo_here(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_version_is_printed(orpo_here: Callable[..., Any]) -> None:
    done = orpo_here("--version")
    assert (done.returncode, done.stdout) == (0, "orpo-cli 0.2.0\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "arguments", [["recipes"], ["recipes", "show", "quickstart"], ["explain", "yaml-key"], ["schema"]]
)
def test_a_full_disk_behind_standard_output_exits_3(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "orpo_cli", *arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == 3
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_recipe_that_cannot_be_printed_is_an_error_without_a_traceback() -> None:
    command = f"{sys.executable} -m orpo_cli recipes show quickstart >&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3
    assert "standard output" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_before_training_is_reported_and_exits_130(
    monkeypatch: pytest.MonkeyPatch, orpo_here: Callable[..., Any]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("orpo_cli.cli.recipes.shipped_recipes", interrupt)
    done = orpo_here("recipes", "--json")
    assert done.returncode == 130
    assert done.stderr == "interrupted.\n"
    assert json.loads(done.stdout)["status"] == "interrupted"


def test_without_a_command_the_help_is_all_that_is_printed(orpo_here: Callable[..., Any]) -> None:
    done = orpo_here()
    assert (done.returncode, done.stderr) == (2, "")
    assert "Usage" in done.stdout
