"""Metrics log of a run: the callback that writes metrics.jsonl and eval_scores.jsonl, and the observer that shows it.

metrics.jsonl has a line for each logged step, each evaluation and each event. Version 1 of its lines is described in
docs/reference/run-directory.md.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainerCallback, TrainerState

from orpo_cli.errors import Problem
from orpo_cli.rundir import EVENT
from orpo_cli.training.metrics_file import MetricsFile, metrics_record, utc_time
from orpo_cli.training.trained_totals import TrainedTotals

METRICS_VERSION = 1


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

    ``check_owned`` raises an error where another process has taken the run over. ``scores``: the path of eval_scores.jsonl.
    ``before``: the totals of the checkpoint that the run resumes from. ``listeners`` receive every line on rank 0, in order,
    after it is written.
    """

    def __init__(
        self,
        path: Path,
        observer: TrainingObserver,
        check_owned: Callable[[], None],
        *,
        scores: Path | None = None,
        attempt: int = 1,
        before: TrainedTotals | None = None,
    ) -> None:
        self.file = MetricsFile(path)
        self.scores = None if scores is None else MetricsFile(scores)
        self.observer = observer
        self.check_owned = check_owned
        self.attempt = attempt
        self.before = before or TrainedTotals()
        self.listeners: list[Callable[[dict[str, Any]], None]] = []
        self.trainer: Any = None  # set once the trainer exists
        self.last: dict[str, Any] = {}
        self.peak_memory_gb = 0.0
        self.first_step = 0  # that this attempt starts from
        self._counted = (0, 0)  # pairs and tokens of all ranks in this attempt, at the last line
        self._tokens_before = 0  # of all ranks, at the last train line
        self._seconds = 0.0  # inside steps since the last train line
        self._step_seconds = 0.0  # inside all steps of this attempt
        self._step_started = 0.0
        self._train_started: float | None = None

    @property
    def step(self) -> int:
        """The number of steps that are done, those before a resumption included."""
        return 0 if self.trainer is None else int(self.trainer.state.global_step)

    def totals(self) -> TrainedTotals:
        """Pairs and tokens at the last line (with one process until now), and seconds until now."""
        trainer = self.trainer
        if trainer is not None and trainer.agreement.num_processes == 1:
            self._counted = trainer.pairs_seen, trainer.tokens_seen
        pairs, tokens = self._counted
        seconds = 0.0 if self._train_started is None else time.monotonic() - self._train_started
        return replace(
            self.before,
            pairs=self.before.pairs + pairs,
            tokens=self.before.tokens + tokens,
            seconds=round(self.before.seconds + seconds, 3),
            step_seconds=round(self.before.step_seconds + self._step_seconds, 3),
        )

    def count_all_ranks(self) -> None:
        """Sum the pairs and tokens of all ranks; all of them call it."""
        pairs, tokens = self.trainer.agreement.sum([self.trainer.pairs_seen, self.trainer.tokens_seen])
        self._counted = int(pairs), int(tokens)

    def checkpoint_totals(self) -> dict[str, Any]:
        """The totals for a checkpoint; all ranks call it."""
        self.count_all_ranks()
        return self.totals().to_document()

    def figures(self) -> dict[str, Any]:
        """Fields of run.json: duration, speed and memory of the training so far."""
        totals = self.totals()
        memory = {"peak_memory_gb": self.peak_memory_gb} if self.peak_memory_gb else {}
        seconds = {"train_seconds": totals.seconds} if totals.complete else {}
        return {**seconds, **totals.rates(), **memory}

    def event(self, name: str, message: str | None = None, **fields: Any) -> None:
        """Write an event line; nothing on other ranks than 0."""
        if self.trainer is None or not self.trainer.is_world_process_zero():
            return
        text = {} if message is None else {"message": message}
        self.check_owned()
        self._write({**self._head(EVENT), "event": name, **fields, **text})

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Start counting seconds, and write the first line of the attempt."""
        self.first_step = state.global_step
        logged = next((entry for entry in reversed(state.log_history) if "loss" in entry), None)
        self.last = {} if logged is None else metrics_record(logged["step"], logged)  # it may stay the last one
        self._train_started = time.monotonic()
        self.event("attempt", attempt=self.attempt, metrics_version=METRICS_VERSION, steps=state.max_steps)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start timing the step."""
        self.check_owned()
        self._step_started = time.perf_counter()

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Stop timing the step."""
        seconds = time.perf_counter() - self._step_started
        self._seconds += seconds
        self._step_seconds += seconds
        self.observer.progress(state.global_step, state.max_steps)

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Write a line for a logged step or an evaluation."""
        logs = dict(logs or {})
        if "train_runtime" in logs:  # the Trainer's summary at the end; run.json has these figures
            return
        self.count_all_ranks()
        (memory,) = self.trainer.agreement.max([peak_memory_bytes(args.device)])
        self.peak_memory_gb = round(memory / 1e9, 3)
        record = {**self._head("train" if "loss" in logs else "eval"), **metrics_record(state.global_step, logs)}
        if "loss" in logs:
            tokens = self._counted[1]
            spent, self._seconds = self._seconds, 0.0
            record["tokens_per_second"] = round((tokens - self._tokens_before) / spent, 1) if spent else 0.0
            record["memory_gb"] = self.peak_memory_gb
            self._tokens_before = tokens
            self.last = record
        if state.log_history:  # for the checkpoint, from which a line that is lost is restored
            state.log_history[-1] |= record
        if not state.is_world_process_zero:
            return
        self.check_owned()
        if "eval_loss" in logs:
            self._write_scores(state.global_step)
        self._write(record)
        self.observer.show_metrics(record)

    def _head(self, kind: str) -> dict[str, Any]:
        """The fields that every line has."""
        totals, state = self.totals(), self.trainer.state
        epoch = {} if state.epoch is None else {"epoch": state.epoch}
        tokens = {"tokens": totals.tokens} if totals.complete else {}
        return {
            "kind": kind, "time": utc_time(), "elapsed": totals.seconds, "step": state.global_step, **epoch,
            "pairs": totals.pairs, **tokens,
        }  # fmt: skip

    def _write(self, record: dict[str, Any]) -> None:
        if (problem := self.file.append(record)) is not None:
            self.observer.note(f"warning: {problem}")
        for listener in self.listeners:
            listener(record)

    def _write_scores(self, step: int) -> None:
        """Write the scores of each pair of the last evaluation."""
        scores = self.trainer.eval_scores
        if scores is None or self.scores is None:
            return
        line = {
            "step": step, "dataset": "eval", "pairs": self.trainer.eval_dataset["row"][:],
            "chosen": _finite_or_none(scores.chosen), "rejected": _finite_or_none(scores.rejected),
        }  # fmt: skip
        if scores.weights is not None:
            line["weights"] = scores.weights.tolist()
        if (problem := self.scores.append(line)) is not None:
            self.observer.note(f"warning: {problem}")


def _finite_or_none(values: torch.Tensor) -> list[float | None]:
    """JSON has no NaN."""
    return [value if math.isfinite(value) else None for value in values.tolist()]


def peak_memory_bytes(device: torch.device) -> int:
    """Peak of allocated GPU memory; on a CPU the peak of the process's resident memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
