"""Metrics log of a run: the callback that writes metrics.jsonl, and the observer that shows it."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainerCallback, TrainerState

from orpo_cli.atomic import atomic_write_text
from orpo_cli.errors import Problem
from orpo_cli.json_files import is_number


class TrainingObserver(Protocol):
    """Receiver of what a training run reports: the live display, or plain lines."""

    def note(self, text: str) -> None:
        """Show a message."""

    def warn(self, problem: Problem) -> None:
        """Show a warning."""

    def progress(self, step: int, total: int) -> None:
        """Show that ``step`` of ``total`` steps is done."""

    def show_metrics(self, record: dict[str, Any]) -> None:
        """Show a line of metrics.jsonl."""


class MetricsCallback(TrainerCallback):
    """Writes metrics.jsonl and reports to the observer. ``tokens_per_second`` counts the time inside steps only."""

    def __init__(self, path: Path, observer: TrainingObserver) -> None:
        self.path = path
        self.observer = observer
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
        record: dict[str, Any] = {"step": state.global_step}
        record |= {name: value for name, value in logs.items() if isinstance(value, int | float)}
        if "loss" in logs:
            tokens = self.trainer.tokens_seen - self._tokens_before
            record["tokens_per_second"] = round(tokens / self._seconds, 1) if self._seconds else 0.0
            record["memory_gb"] = round(peak_memory_bytes(args.device) / 1e9, 3)
            self._tokens_before, self._seconds = self.trainer.tokens_seen, 0.0
            self.last = record
        record = {name: value for name, value in record.items() if math.isfinite(value)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.observer.show_metrics(record)


def peak_memory_bytes(device: torch.device) -> int:
    """Peak of allocated GPU memory; on a CPU the peak of the process's resident memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def truncate_metrics(path: Path, step: int) -> int:
    """Drop the lines of metrics.jsonl after ``step``, which a resumed run computes again, and an incomplete last line.

    Returns the number of lines that are not metrics, which are kept.
    """
    if not path.exists():
        return 0
    *lines, last = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    if _step_of(last) is not None:
        lines.append(last)  # only its line feed is missing
    steps = [_step_of(line) for line in lines]
    kept = [line for line, number in zip(lines, steps, strict=True) if number is None or number <= step]
    atomic_write_text(path, "".join(f"{line}\n" for line in kept))
    return steps.count(None)


def _step_of(line: str) -> float | None:
    """The step of a line of metrics.jsonl; None for another line."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return step if is_number(step) else None
