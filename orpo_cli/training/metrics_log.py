"""Metrics log of a run: the callback that writes metrics.jsonl, and the observer that shows it."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainerCallback, TrainerState

from orpo_cli.errors import Problem
from orpo_cli.training.metrics_file import MetricsFile, metrics_record


class TrainingObserver(Protocol):
    """Receiver of what a training run reports: the live display, or plain lines."""

    def note(self, text: str) -> None:
        """Show a message."""

    def warn(self, problem: Problem) -> None:
        """Show a warning."""

    def status(self, text: str, detail: str = "") -> None:
        """Show what happens now besides the steps, such as "evaluating" or "starting trackers: wandb"; empty in a step."""

    def begin(
        self, step: int, total: int, evaluations: Sequence[int], saves: Sequence[int], evaluation_cost: float
    ) -> None:
        """Tell the schedule when training begins: after which steps the model is evaluated and saved.

        ``evaluation_cost``: the expected time of an evaluation, in steps.
        """

    def progress(self, step: int, total: int) -> None:
        """Show that ``step`` of ``total`` steps is done."""

    def show_metrics(self, record: dict[str, Any]) -> None:
        """Show a line of metrics.jsonl."""


class MetricsCallback(TrainerCallback):
    """Writes metrics.jsonl and reports to the observer, on rank 0 of several. ``tokens_per_second`` counts the time inside
    steps only, and the tokens of all ranks; ``memory_gb`` is that of the rank with the most.

    ``check_owned`` raises an error where another process has taken the run over.
    """

    def __init__(self, path: Path, observer: TrainingObserver, check_owned: Callable[[], None]) -> None:
        self.file = MetricsFile(path)
        self.observer = observer
        self.check_owned = check_owned
        self.trainer: Any = None  # set once the trainer exists
        self.last: dict[str, Any] = {}
        self._tokens_before = 0
        self._seconds = 0.0
        self._step_started = 0.0

    @property
    def step(self) -> int:
        """The number of steps that are done, those before a resumption included."""
        return 0 if self.trainer is None else int(self.trainer.state.global_step)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start timing the step."""
        self.check_owned()
        self._step_started = time.perf_counter()

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Stop timing the step."""
        self._seconds += time.perf_counter() - self._step_started
        self.observer.progress(state.global_step, state.max_steps)

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Write a line for a logged step or an evaluation."""
        logs = dict(logs or {})
        if "train_runtime" in logs:  # the Trainer's summary at the end; run.json has these figures
            return
        record = metrics_record(state.global_step, logs)
        if "loss" in logs:
            agreement = self.trainer.agreement
            (tokens,) = agreement.sum([self.trainer.tokens_seen - self._tokens_before])
            (memory,) = agreement.max([peak_memory_bytes(args.device)])
            record["tokens_per_second"] = round(tokens / self._seconds, 1) if self._seconds else 0.0
            record["memory_gb"] = round(memory / 1e9, 3)
            self._tokens_before, self._seconds = self.trainer.tokens_seen, 0.0
            self.last = record
        if state.log_history:  # for the checkpoint, from which a line that is lost is restored
            state.log_history[-1] |= record
        if not state.is_world_process_zero:
            return
        self.check_owned()
        if (problem := self.file.append(record)) is not None:
            self.observer.note(f"warning: {problem}")
        self.observer.show_metrics(record)


def peak_memory_bytes(device: torch.device) -> int:
    """Peak of allocated GPU memory; on a CPU the peak of the process's resident memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
