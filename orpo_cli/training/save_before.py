"""End of a training before its time is up: `training.save_before`, or the end of a Slurm job.

The durations of recent steps, evaluations and saves decide when the rest of the time is only enough to save and leave.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from orpo_cli import interruption
from orpo_cli.recipe.schema.time_limit import time_limit_seconds
from orpo_cli.run_attempts import command_began

REASON = "save_before"  # in run.json and in messages
SLURM_VARIABLE = "SLURM_JOB_END_TIME"  # seconds since 1970
LONGEST_JOB_SECONDS = 366 * 24 * 3600.0
RECENT_STEPS = 20
SLOWER = 1.25  # how much longer the next step or save may take than the last ones
MARGIN_SECONDS = 15.0  # to write run.json and end the process
PUSH_WAIT_SECONDS = 30.0  # for a push in progress when a run is interrupted
# Until a checkpoint has been saved: the weights and both moments of Adam in float32, on a slow disk.
BYTES_PER_PARAMETER, DISK_BYTES_PER_SECOND = 12, 200e6


@dataclass(frozen=True)
class Deadline:
    """The time, in seconds since 1970, at which the process must have ended; ``source`` is the setting or variable."""

    at: float
    source: str

    def __str__(self) -> str:
        return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.at))} ({self.source})"


def find_deadline(save_before: str | None) -> Deadline | None:
    """The earliest of the ends that are set. An end of a Slurm job that has passed, or is years away, is not of this job."""
    found = []
    if save_before is not None:
        found.append(Deadline(command_began() + time_limit_seconds(save_before), "training.save_before"))
    with suppress(ValueError):
        end_of_job = Deadline(float(os.environ.get(SLURM_VARIABLE, "")), SLURM_VARIABLE)
        if 0 < end_of_job.at - time.time() < LONGEST_JOB_SECONDS:
            found.append(end_of_job)
    return min(found, key=lambda each: each.at, default=None)


class SaveBeforeCallback(TrainerCallback):
    """Request the end of the training when the time until the deadline is enough for the checkpoint only.

    InterruptCallback, which comes after it, stops the training as for a signal, on all ranks: rank 0 alone measures.
    ``pushes``: the run also waits for a push.
    """

    def __init__(self, deadline: Deadline, note: Callable[[str], None], *, pushes: bool = False) -> None:
        self.deadline, self.note = deadline, note
        self.margin_seconds = MARGIN_SECONDS + (PUSH_WAIT_SECONDS if pushes else 0.0)
        self.step_seconds: deque[float] = deque(maxlen=RECENT_STEPS)
        self.evaluation_seconds = 0.0
        self.save_seconds = 0.0
        self.decides = True
        self._since = time.monotonic()  # the end of what was measured last

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, *, model: Any, **_: Any) -> None:
        """Estimate the first save, and start to measure."""
        parameters = sum(each.numel() for each in model.parameters() if each.requires_grad)
        self.save_seconds = parameters * BYTES_PER_PARAMETER / DISK_BYTES_PER_SECOND
        self.decides = state.is_world_process_zero
        if self.decides:
            self.note(f"a checkpoint is saved, and the training stops, before {self.deadline}")
        self._measured()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Leave if the time is not enough for what comes before the next chance to leave, and then a save."""
        self.step_seconds.append(self._measured())
        epoch_ends = abs((state.epoch or 0.0) - round(state.epoch or 0.0)) < 1e-9
        needed = self.save_seconds  # the checkpoint to leave with, or the result after the last step
        if control.should_evaluate or (epoch_ends and args.eval_strategy == "epoch"):
            needed += self.evaluation_seconds
        if control.should_save or (epoch_ends and args.save_strategy == "epoch"):
            needed += self.save_seconds
        if state.global_step < state.max_steps:
            needed += max(self.step_seconds)
        self._leave_if_short(needed)

    def on_prediction_step(self, *_: Any, **__: Any) -> None:
        """Leave an evaluation that takes longer than the time that is left."""
        self._leave_if_short(self.save_seconds)

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        """Measure the evaluation."""
        self.evaluation_seconds = self._measured()

    def on_save(self, *_: Any, **__: Any) -> None:
        """Measure the save."""
        self.save_seconds = self._measured()

    def _measured(self) -> float:
        """Seconds since the last call."""
        before, self._since = self._since, time.monotonic()
        return self._since - before

    def _leave_if_short(self, needed: float) -> None:
        if not self.decides or interruption.cause() is not None:
            return
        if time.time() + SLOWER * needed + self.margin_seconds > self.deadline.at:
            interruption.request(REASON)
            self.note(f"{REASON}: stopping and saving a checkpoint, because the time is up at {self.deadline}")
