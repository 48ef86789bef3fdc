"""`training.save_before` and the end of a Slurm job: a run leaves in time, and continues to the same weights."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.forked_command import ForkedCommand, run_here
from support.signal_phases import assert_interrupted, checkpoints, digest, resume, signal_recipe, status, train_command

SECONDS_LEFT = 8.0
STEP_SECONDS = 2.0


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return signal_recipe(tmp_path_factory.mktemp("save_before"))


@pytest.fixture(scope="module")
def uninterrupted(recipe: Path) -> str:
    run = recipe.parent / "uninterrupted"
    assert run_here(*train_command(recipe, run)) == 0
    return digest(run)


def end_job_soon(record: Path) -> Callable[[], None]:
    """In the fork: steps take a while, and the job ends some steps after the training has begun."""

    def prepare() -> None:
        from orpo_cli.training import save_before, train
        from orpo_cli.training.packed_trainer import PackedTrainer

        save_before.MARGIN_SECONDS = 1.0
        find_deadline, training_step = train.find_deadline, PackedTrainer.training_step

        def in_a_job(*arguments):
            os.environ["SLURM_JOB_END_TIME"] = str(time.time() + SECONDS_LEFT)
            record.write_text(os.environ["SLURM_JOB_END_TIME"])
            return find_deadline(*arguments)

        def slow_step(*arguments, **keywords):
            time.sleep(STEP_SECONDS)
            return training_step(*arguments, **keywords)

        train.find_deadline, PackedTrainer.training_step = in_a_job, slow_step

    return prepare


def test_a_run_leaves_before_its_job_ends_and_continues_to_the_same_weights(
    tmp_path: Path, recipe: Path, uninterrupted: str
) -> None:
    run = tmp_path / "run"
    command = ForkedCommand(tmp_path, train_command(recipe, run), before=end_job_soon(tmp_path / "end"))
    code = command.wait()
    ended = time.time()
    assert_interrupted(code, command.stderr, "save_before", "SLURM_JOB_END_TIME", "--resume auto")
    assert ended < float((tmp_path / "end").read_text())
    assert status(run) == "interrupted"
    attempt = json.loads((run / "run.json").read_text())["attempts"][-1]
    assert (attempt["reason"], attempt["detail"]) == ("interrupted", "save_before")
    assert 1 <= attempt["to_step"] < 6
    assert checkpoints(run)[-1] == f"checkpoint-{attempt['to_step']}"
    resume(recipe, run, tmp_path)
    assert digest(run) == uninterrupted


def test_every_attempt_trains_at_least_one_step(tmp_path: Path, recipe: Path, uninterrupted: str) -> None:
    """Also where the time is over before the first step; the recipe's value has no quotes, as YAML 1.2 allows."""
    run, limited = tmp_path / "run", recipe.with_name("limited.yaml")
    limited.write_text(recipe.read_text().replace("training:", "training:\n  save_before: 0:00:01"))
    for step in (1, 2):
        command = ForkedCommand(tmp_path, train_command(limited, run, "--resume", "auto"))
        assert_interrupted(command.wait(), command.stderr, "save_before", f"checkpoint-{step}", "training.save_before")
    resume(recipe, run, tmp_path)
    assert digest(run) == uninterrupted
