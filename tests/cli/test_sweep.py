"""`orpo sweep`: options and errors before anything starts, and the list of trials."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
