"""`orpo sweep`: options and errors before anything starts, and the list of trials."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import scripted_trial

from orpo_cli.sweep import results

RECIPE = """\
model:
  model_name_or_path: org/model
dataset:
  train: {path: train.jsonl}
  eval: {path: heldout.jsonl}
training:
  eval_strategy: "no"
"""


@pytest.fixture
def sweep(tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text(RECIPE)
    return lambda *arguments: orpo_here("sweep", "my.yaml", *arguments)


def test_a_dry_run_lists_the_trials_and_writes_nothing(sweep: Callable[..., Any], tmp_path: Path) -> None:
    grid = ("--grid", "training.learning_rate=1e-5,5e-5", "--grid", "training.beta=0.1,0.5")
    done = sweep(*grid, "--dry-run")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"learning_rate={rate},beta={beta}  (waiting)" for rate in ("1e-5", "5e-5") for beta in (0.1, 0.5)
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["my.yaml"]
    document = json.loads(sweep(*grid, "--dry-run", "--json").stdout)
    assert document["sweep"] == str(tmp_path / "runs" / "my-sweep")
    assert document["trials"][0]["values"] == {"training.learning_rate": 1e-5, "training.beta": 0.1}


def test_random_trials_are_the_same_for_the_same_seed(sweep: Callable[..., Any]) -> None:
    options = ("--range", "training.learning_rate=1e-6..1e-4:log", "--dry-run", "--random", "5")
    first = sweep(*options).stdout
    assert len(first.splitlines()) == 5
    assert sweep(*options).stdout == first
    assert sweep(*options, "--seed", "1").stdout != first


def test_a_space_with_fewer_combinations_is_said(sweep: Callable[..., Any]) -> None:
    done = sweep("--grid", "training.beta=0.1,1", "--random", "100", "--dry-run")
    assert len(done.stdout.splitlines()) == 2
    assert "--random 100: there are only 2 different combinations" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "nothing to vary"),
        (("--range", "training.beta=0.1..1"), "Add --random N"),
        (("--grid", "training.beta=0.1,0.5", "--sampler", "tpe"), "--sampler does nothing without --random"),
        (("--grid", "training.beta=0.1,-1"), "--grid: training.beta"),
        (("--grid", "training.betta=0.1,1"), "--grid: training.betta"),
        (("--grid", "training.beta=0.1,1", "--set", "launch.num_machines=2"), "a sweep trains on one machine"),
        (
            ("--grid", "training.beta=0.1,1", "--set", "launch.num_processes=2", "--jobs", "2"),
            "gives each trial one device",
        ),
    ],
)
def test_errors_come_before_anything_starts(
    sweep: Callable[..., Any], tmp_path: Path, arguments: tuple[str, ...], part: str
) -> None:
    done = sweep(*arguments)
    assert done.returncode == 2
    assert part in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["my.yaml"]


def test_a_directory_of_something_else_is_refused(sweep: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    done = sweep("--grid", "training.beta=0.1,1", "--output", "other")
    assert done.returncode == 2
    assert "other is not empty, and is not a sweep" in done.stderr
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["file"]


def test_an_error_of_the_data_ends_the_sweep_before_its_first_trial(sweep: Callable[..., Any], tmp_path: Path) -> None:
    done = sweep("--grid", "training.beta=0.1,1", "--json")
    assert done.returncode != 0
    assert json.loads(done.stdout)["exit_code"] == done.returncode
    assert not (tmp_path / "runs" / "my-sweep").exists()


@pytest.fixture
def scripted_sweep(sweep: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A sweep of two trials that only write the records of a run."""
    program = [sys.executable, "-S", scripted_trial.__file__]
    monkeypatch.setattr("orpo_cli.sweep.trial_process.worker_command", lambda arguments: [*program, *arguments])
    monkeypatch.setattr("orpo_cli.workflows.sweep._prepare_in_child", lambda *_: None)
    monkeypatch.setattr("orpo_cli.sweep.scheduler.POLL_SECONDS", 0.01)
    return lambda *arguments, values="0.3,0.9": sweep(
        "--grid", f"training.beta={values}", "--no-early-stop", "--output", "x", *arguments
    )


@pytest.mark.parametrize(
    ("edited", "part"),
    [
        (
            RECIPE + "  max_steps: 5\n",
            "the recipe has changed since the sweep was started: training.max_steps was null",
        ),
        (RECIPE + "  betta: 5\n", "training.betta"),
        (None, "my.yaml: no such recipe file"),
    ],
)
def test_a_recipe_that_was_edited_during_the_sweep_costs_only_the_recipe_of_the_winner(
    scripted_sweep: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edited: str | None, part: str
) -> None:
    def edit_and_rank(*arguments: Any) -> results.Ranking:
        if edited is None:
            Path("my.yaml").unlink()
        else:
            Path("my.yaml").write_text(edited)
        return results.rank(*arguments)

    with monkeypatch.context() as during:
        during.setattr("orpo_cli.workflows.sweep.rank", edit_and_rank)
        done = scripted_sweep()
    assert done.returncode == 2
    assert f"{tmp_path / 'x' / 'winner.yaml'} is not written: " in done.stderr
    assert part in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["trial", "beta=0.9", "beta=0.3"]
    winner = json.loads(Path("x/sweep.json").read_text())["winner"]
    assert (winner["trial"], winner["recipe"]) == ("beta=0.9", None)
    assert Path("x/report/index.html").is_file()
    assert not Path("x/winner.yaml").exists()
    Path("my.yaml").write_text(RECIPE)
    done = scripted_sweep()
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, str(tmp_path / "x" / "winner.yaml"))
    assert starts() == {"beta=0.3": 1, "beta=0.9": 1}


def starts() -> dict[str, int]:
    """How often each trial was started."""
    return {each.parent.name: len(each.read_text().splitlines()) for each in sorted(Path("x/trials").glob("*/starts"))}


def test_a_sweep_whose_record_is_damaged_goes_on_as_its_error_says(scripted_sweep: Callable[..., Any]) -> None:
    assert scripted_sweep().returncode == 0
    for beta in ("0.3", "0.9"):
        recipe = RECIPE.replace('"no"', "epoch") + f"  beta: {beta}\nname: beta={beta}\n"
        Path("x", "trials", f"beta={beta}", "recipe.yaml").write_text(recipe)
    record = Path("x/sweep.json")
    record.write_text("{")
    done = scripted_sweep()
    assert done.returncode == 2
    assert "Remove the file and repeat the command" in done.stderr
    record.rename("x/sweep.json.damaged")
    assert "is not a sweep" in scripted_sweep("--resume", "never").stderr
    assert scripted_sweep("--dry-run").stdout == "beta=0.3  (finished)\nbeta=0.9  (finished)\n"
    done = scripted_sweep(values="0.3,0.9,0.6")
    assert done.returncode == 0, done.stderr
    assert "2 of them are trained already" in done.stderr
    assert starts() == {"beta=0.3": 1, "beta=0.6": 1, "beta=0.9": 1}
    assert json.loads(record.read_text())["winner"]["trial"] == "beta=0.9"


def test_without_its_record_a_sweep_takes_no_other_runs(scripted_sweep: Callable[..., Any]) -> None:
    scripted_sweep()
    Path("x/sweep.json").unlink()
    for beta, steps in (("0.3", 5), ("0.9", 6)):
        recipe = RECIPE.replace('"no"', "epoch") + f"  beta: {beta}\n  max_steps: {steps}\nname: beta={beta}\n"
        Path("x", "trials", f"beta={beta}", "recipe.yaml").write_text(recipe)
    done = scripted_sweep("--set", "training.max_steps=5")
    assert done.returncode == 2
    assert "trials/beta=0.9 was trained with another recipe" in done.stderr
    done = scripted_sweep("--set", "training.max_steps=5", values="0.3,0.6")
    assert "trials/beta=0.9 is a trial that the command does not ask for" in done.stderr
    Path("x/trials/beta=0.3/run.json").write_text('{"status": "finished"}')  # a run that no sweep has started
    assert "is not empty, and is not a sweep" in scripted_sweep().stderr
    assert starts() == {"beta=0.3": 1, "beta=0.9": 1}
    assert not Path("x/sweep.json").exists()
