"""When a training leaves before its time is up: durations of steps, evaluations and saves against the deadline."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState

from orpo_cli import interruption
from orpo_cli.recipe.schema.time_limit import time_limit_seconds
from orpo_cli.training import save_before
from orpo_cli.training.save_before import Deadline, SaveBeforeCallback, find_deadline

NO_STRATEGY = SimpleNamespace(eval_strategy="no", save_strategy="no")


@pytest.fixture(autouse=True)
def no_request() -> Iterator[None]:
    interruption.forget()
    yield
    interruption.forget()


def callback(
    seconds_left: float, *, step: float = 0.0, save: float = 0.0, evaluation: float = 0.0
) -> SaveBeforeCallback:
    made = SaveBeforeCallback(Deadline(time.time() + save_before.MARGIN_SECONDS + seconds_left, "test"), lambda _: None)
    made.step_seconds.append(step)
    made.save_seconds, made.evaluation_seconds = save, evaluation
    made._measured()
    return made


def leaves(
    made: SaveBeforeCallback, *, step: int = 5, epoch: float = 0.5, args: Any = NO_STRATEGY, **control: bool
) -> bool:
    state = SimpleNamespace(global_step=step, max_steps=10, epoch=epoch)
    made.on_step_end(args, state, TrainerControl(**control))  # type: ignore[arg-type]
    requested = interruption.cause() == "save_before"
    interruption.forget()
    return requested


def test_it_leaves_when_the_longest_recent_step_and_a_save_no_longer_fit() -> None:
    assert not leaves(callback(60, step=20, save=20))
    assert leaves(callback(40, step=20, save=20))  # a quarter is added


def test_a_run_that_pushes_leaves_earlier_by_the_time_that_it_waits_for_a_push() -> None:
    deadline = Deadline(time.time() + save_before.MARGIN_SECONDS + 10, "test")
    for pushes in (False, True):
        made = SaveBeforeCallback(deadline, lambda _: None, pushes=pushes)
        made.step_seconds.append(1.0)
        assert leaves(made) == pushes


def test_after_the_last_step_only_the_result_has_to_fit() -> None:
    assert leaves(callback(30, step=100, save=20))
    assert not leaves(callback(30, step=100, save=20), step=10)
    assert leaves(callback(20, step=1, save=20), step=10)


def test_an_evaluation_and_a_save_that_are_due_count() -> None:
    assert not leaves(callback(60, save=10, evaluation=50))
    assert leaves(callback(60, save=10, evaluation=50), should_evaluate=True)
    assert not leaves(callback(25, save=11))
    assert leaves(callback(25, save=11), should_save=True)
    every_epoch = SimpleNamespace(eval_strategy="epoch", save_strategy="epoch")
    assert not leaves(callback(60, save=10, evaluation=50), args=every_epoch)
    assert leaves(callback(60, save=10, evaluation=50), args=every_epoch, epoch=2.0)


def test_only_recent_steps_count() -> None:
    made = callback(60, step=100)
    assert leaves(made)
    for _ in range(save_before.RECENT_STEPS):
        leaves(made)
    assert not leaves(made)


def test_a_long_evaluation_is_left() -> None:
    made = callback(10, save=10)
    made.on_prediction_step()
    assert interruption.cause() == "save_before"


def test_the_first_save_is_estimated_from_the_trained_weights() -> None:
    model = torch.nn.Linear(1_000, 1_000)
    model.bias.requires_grad = False
    made = callback(60)
    made.on_train_begin(NO_STRATEGY, TrainerState(), TrainerControl(), model=model)
    assert made.save_seconds == pytest.approx(12e6 / save_before.DISK_BYTES_PER_SECOND)


def test_the_earliest_end_counts_and_that_of_an_earlier_job_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    assert find_deadline(None) is None
    limit = find_deadline("99999:00:00")
    assert limit is not None
    assert limit.source == "training.save_before"
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 60))
    assert find_deadline("99999:00:00").source == find_deadline(None).source == "SLURM_JOB_END_TIME"  # type: ignore[union-attr]
    for other in ("99999999999999999999", "1e400", str(int(time.time()) - 60), "", "soon"):
        monkeypatch.setenv("SLURM_JOB_END_TIME", other)
        assert find_deadline(None) is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("00:00:01", 1), ("2:30:00", 9000), ("100:00:00", 360_000), ("1-12:00:05", 129_605)]
)
def test_a_time_limit_is_read_as_job_schedulers_write_it(text: str, seconds: int) -> None:
    assert time_limit_seconds(text) == seconds
