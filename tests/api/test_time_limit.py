"""`training.save_before` of a training in Python."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest
from support.tiny import write_recipe
from support.tiny_run import RECIPE, make_plan

from orpo_cli import train
from orpo_cli.report.console import Console
from orpo_cli.run_attempts import BEGAN_VARIABLE
from orpo_cli.run_creation import create_run
from orpo_cli.workflows.train_ranks import job_of


def test_the_time_of_a_training_counts_from_its_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of a notebook may be hours older."""
    started = time.time() - 7200
    monkeypatch.setattr(psutil.Process, "create_time", lambda _: started)
    recipe = write_recipe(tmp_path, steps=2, estimated=False, training={"save_before": "01:00:00"})
    assert train(recipe).record["steps"] == 2
    assert BEGAN_VARIABLE not in os.environ


def test_ranks_count_from_the_call_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BEGAN_VARIABLE, "1700000000.5")
    with create_run(make_plan(tmp_path / "run", "x"), RECIPE) as run:
        assert job_of(run, None, Console()).started == 1700000000.5
