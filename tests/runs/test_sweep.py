"""Sweeps of tiny models with real trainings: from the command line to the winner, interrupted, killed and continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.tiny import write_recipe

GRID = ("--grid", "training.learning_rate=1e-6,1e-2", "--grid", "training.beta=0.1,0.5")
STEPS = 8
SECONDS = 200


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("sweep"), steps=STEPS, estimated=False)


def sweep_command(recipe: Path, folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "orpo_cli", "sweep", str(recipe), *arguments, "--output", str(folder)]


def run(recipe: Path, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = sweep_command(recipe, folder, *arguments)
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=1000, check=False
    )


def record(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "sweep.json").read_text())
    return document


def states(folder: Path) -> list[str]:
    return [each["state"] for each in record(folder)["trials"]]


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def metrics(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
def test_a_sweep_trains_all_trials_and_its_winner_can_be_trained(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    done = run(recipe, folder, *GRID, "--no-early-stop", ORPO_PAIR_CACHE="1", ORPO_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert states(folder) == ["finished"] * 4
    assert len(list((tmp_path / "cache" / "pairs").iterdir())) == 2  # training and held-out pairs, prepared once
    for log in (folder / "logs").iterdir():
        assert log.read_text().count("using pairs that are already prepared") == 1
    *table, last = done.stdout.strip().splitlines()
    assert last == str(folder / "winner.yaml")
    winner = record(folder)["winner"]
    assert table[1].startswith(winner["trial"])
    assert "learning_rate=0.01" in winner["trial"]
    assert winner["interval"][0] <= winner["value"] <= winner["interval"][1]
    assert (winner["pairs"], winner["step"]) == (8, STEPS)
    run_document = json.loads(Path(winner["run"], "run.json").read_text())
    assert run_document["sweep"] == {"directory": str(folder), "trial": winner["trial"]}
    page = (folder / "report" / "index.html").read_text()
    assert all(each["name"] in page for each in record(folder)["trials"])

    trained = tmp_path / "winner"
    command = [sys.executable, "-m", "orpo_cli", "train", last, "--set", f"output_dir={trained}"]
    subprocess.run(command, check=True, capture_output=True, timeout=1000)
    losses = [
        [line["loss"] for line in metrics(path / "metrics.jsonl") if "loss" in line]
        for path in (trained, Path(winner["run"]))
    ]
    assert len(losses[0]) == STEPS
    assert losses[0] == losses[1]

    again = run(recipe, folder, *GRID, "--no-early-stop", "--json")
    document = json.loads(again.stdout)
    assert (document["status"], document["winner"]["trial"]) == ("finished", winner["trial"])
    assert document["report"] == str(folder / "report" / "index.html")
    assert again.stderr.count("started") == 0

    (folder / "sweep.json").unlink()  # as the error of a damaged one says
    again = run(recipe, folder, *GRID, "--no-early-stop")
    assert again.returncode == 0, again.stderr
    assert "4 of them are trained already" in again.stderr
    assert record(folder)["winner"] == winner
    (folder / "sweep.json").unlink()
    again = run(recipe, folder, *GRID, "--no-early-stop", "--set", "training.max_steps=9")
    assert "was trained with another recipe" in again.stderr


@pytest.mark.slow
def test_ctrl_c_saves_checkpoints_and_the_same_command_continues(recipe: Path, tmp_path: Path) -> None:
    folder, grid = tmp_path / "sweep", ("--grid", "training.learning_rate=1e-3,2e-3", "--set", "training.max_steps=60")
    process = subprocess.Popen(
        sweep_command(recipe, folder, *grid, "--jobs", "2"), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    wait_until(
        lambda: len([path for path in folder.glob("trials/*/metrics.jsonl") if '"loss"' in path.read_text()]) == 2
    )
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, errors
    assert states(folder) == ["interrupted"] * 2
    assert len(list(folder.glob("trials/*/checkpoints/checkpoint-*"))) == 2
    done = run(recipe, folder, *grid, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert set(states(folder)) <= {"finished", "stopped"}
    assert states(folder).count("finished") >= 1
    for path in folder.glob("trials/*/metrics.jsonl"):
        steps = [each["step"] for each in metrics(path) if each.get("kind") == "train"]
        assert steps == list(range(1, len(steps) + 1))


@pytest.mark.slow
def test_a_killed_sweep_leaves_no_trial_that_trains_on_and_is_continued(recipe: Path, tmp_path: Path) -> None:
    folder, grid = tmp_path / "sweep", ("--grid", "training.beta=0.1,0.2", "--set", "training.max_steps=60")
    process = subprocess.Popen(
        sweep_command(recipe, folder, *grid), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    log = folder / "trials" / "beta=0.1" / "metrics.jsonl"
    wait_until(lambda: log.exists() and '"loss"' in log.read_text())
    trial = psutil.Process(process.pid).children()[0]
    process.kill()
    process.wait()
    wait_until(lambda: not trial.is_running() or trial.status() == psutil.STATUS_ZOMBIE)
    status = json.loads((folder / "trials" / "beta=0.1" / "run.json").read_text())["status"]
    assert status == "interrupted"
    done = run(recipe, folder, *grid, "--no-early-stop")
    assert done.returncode == 0, done.stderr
    assert states(folder) == ["finished"] * 2


@pytest.mark.slow
def test_a_trial_that_fails_ends_no_other(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    grid = ("--grid", "training.learning_rate=1e-3,1e+20", "--set", "training.max_grad_norm=0")
    done = run(recipe, folder, *grid, "--no-early-stop")
    assert done.returncode == 5, done.stderr
    assert states(folder) == ["finished", "failed"]
    assert "1 of 2 trials failed" in done.stderr
    assert "the loss is nan" in record(folder)["trials"][1]["reason"]
    assert record(folder)["winner"]["trial"] == "learning_rate=0.001"
