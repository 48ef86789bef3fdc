"""Metric history for watchdogs: the first and the latest train lines of metrics.jsonl, and all evaluations.

Lines come one by one, live or from a finished run. The memory is bounded, so that a long run stays fast.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Self

Record = dict[str, Any]

KEPT_RECORDS = 100  # of the start, and of the end
MIN_RECORDS = 10  # fewer lines have no reliable mean
START_PART = 0.1  # of the steps: about the warm-up, in which the weights are still close to those of the base
MIN_EVAL_PAIRS = 50  # fewer held-out pairs are no evidence
ATTEMPT_RECORDS = 22  # of the start of an attempt: the first two steps are slow, then twenty are measured


@dataclass(frozen=True)
class Setup:
    """Settings of the plan that the rules use; the defaults are those of the libraries."""

    beta: float | None = None
    learning_rate: float | None = None
    max_grad_norm: float = 1.0
    max_steps: float = -1
    num_train_epochs: float = 3.0
    pairs_per_step: float | None = None

    @classmethod
    def of(cls, plan: Mapping[str, Any]) -> Self:
        """The settings of a plan, as plan.json has it or as plain values; damaged or missing values get their default."""
        places = {name: ("training", name) for name in cls.__dataclass_fields__}
        places["pairs_per_step"] = ("launch", "pairs_per_step")
        values = {}
        for name, (section, key) in places.items():
            value = _entry(_entry(plan, section), key)
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                values[name] = float(value)
        return cls(**values)


def _entry(values: Any, name: str) -> Any:
    entry = values.get(name) if isinstance(values, Mapping) else None
    return entry["value"] if isinstance(entry, Mapping) and "value" in entry else entry


class MetricHistory:
    """Lines of one run. ``first`` and ``recent`` are train lines; ``base`` is the evaluation before the first step."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.first: list[Record] = []
        self.recent: deque[Record] = deque(maxlen=KEPT_RECORDS)
        self.attempt: list[Record] = []  # the first lines of this attempt, which may have another machine
        self.attempt_count = 0
        self.evaluations: list[Record] = []
        self.base: Record | None = None
        self.out_of_memory_step: float | None = None

    def add(self, line: Mapping[str, Any]) -> str | None:
        """Add a line of metrics.jsonl. Returns ``train`` or ``eval``; None for an event and for a line without metrics."""
        if line.get("event") == "attempt":
            self.attempt, self.attempt_count = [], 0
        elif line.get("event") == "oom":
            self.out_of_memory_step = line.get("step")
        record = {
            name: value
            for name, value in line.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        }
        kind = line.get("kind") or ("eval" if "eval_loss" in record else "train" if "loss" in record else None)
        if kind not in ("train", "eval") or "step" not in record:
            return None
        prefix = "eval_" if kind == "eval" else ""
        chosen, rejected = (record.get(f"{prefix}logps/{name}") for name in ("chosen", "rejected"))
        if chosen is not None and rejected is not None:
            record[f"{prefix}margin"] = chosen - rejected  # without beta
        self._forget_from(record["step"], kind)
        if kind == "eval":
            if record["step"] == 0:
                self.base = record
            else:
                self.evaluations.append(record)
            return "eval"
        self._add_train(record)
        return "train"

    def _add_train(self, record: Record) -> None:
        before = self.recent[-1] if self.recent else {}
        record["steps"] = max(1, record["step"] - before.get("step", 0))
        per_step = self.setup.pairs_per_step or 0
        for name, otherwise in (("pairs", per_step * record["steps"]), ("tokens", 0)):
            record[f"line_{name}"] = record[name] - before.get(name, 0) if name in record else otherwise
        self.recent.append(record)
        self.attempt_count += 1
        if len(self.first) < KEPT_RECORDS:
            self.first.append(record)
        if len(self.attempt) < ATTEMPT_RECORDS:
            self.attempt.append(record)

    def _forget_from(self, step: float, kind: str) -> None:
        """Drop what comes from ``step`` on: a damaged file may have steps twice."""
        kept = self.evaluations if kind == "eval" else self.recent
        while kept and kept[-1]["step"] >= step:
            kept.pop()
        if kind == "train":
            self.first = [each for each in self.first if each["step"] < step] if self._repeats(step) else self.first

    def _repeats(self, step: float) -> bool:
        return bool(self.first) and self.first[-1]["step"] >= step

    @property
    def judges_by_evaluations(self) -> bool:
        """Whether the held-out pairs tell how the model has changed: the base was evaluated on enough of them."""
        return self.base is not None and self.base.get("eval_pairs", 0) >= MIN_EVAL_PAIRS and bool(self.evaluations)

    @property
    def last(self) -> Record:
        """The last train line."""
        return self.recent[-1] if self.recent else {}

    def total_steps(self) -> float:
        """Steps of the run when it is complete; 0 where neither the plan nor the epochs say it."""
        if self.setup.max_steps > 0:
            return self.setup.max_steps
        step, epoch = self.last.get("step", 0), self.last.get("epoch", 0)
        return self.setup.num_train_epochs * step / epoch if epoch else 0.0

    def progress(self, step: float) -> float:
        """The part of the run that is done after ``step``; 0 where its length is not known."""
        total = self.total_steps()
        return min(1.0, step / total) if total else 0.0

    def start_and_end(self, *, strict: bool) -> tuple[list[Record], list[Record]]:
        """Lines of the first steps of the run and of the last ones: a tenth of all steps each, without overlap.

        Both are empty with fewer than ten lines in one of them. Without ``strict`` the first lines may then be of more steps,
        in which the model has learned already: that hides a change, and never invents one.
        """
        steps = START_PART * max(self.total_steps(), self.last.get("step", 0))
        start = [
            each
            for number, each in enumerate(self.first)
            if each["step"] <= steps or (number < MIN_RECORDS and not strict)
        ]
        end = last_lines(self.recent, steps)
        end = end if len(end) >= MIN_RECORDS else list(self.recent)[: -MIN_RECORDS - 1 : -1]
        if min(len(start), len(end)) < MIN_RECORDS or end[-1]["step"] <= start[-1]["step"]:
            return [], []
        return start, end


def last_lines(lines: Sequence[Record], steps: float) -> list[Record]:
    """The last lines that cover ``steps``, as far as there are so many; the latest first."""
    found: list[Record] = []
    covered = 0.0
    for each in reversed(lines):
        if covered >= steps:
            break
        found.append(each)
        covered += each["steps"]
    return found


def covered_steps(lines: Iterable[Record]) -> float:
    """The steps of lines."""
    return float(sum(each["steps"] for each in lines))


def values(records: Iterable[Record], name: str) -> list[float]:
    """The values of a metric, where a line has it."""
    return [record[name] for record in records if name in record]


def gain(start: list[float], end: list[float]) -> tuple[float, float] | None:
    """How much the mean has risen, and its standard error (Welch); None with fewer than two values."""
    if min(len(start), len(end)) < 2:
        return None
    means = fmean(start), fmean(end)
    squares = (sum((each - mean) ** 2 for each in part) for part, mean in zip((start, end), means, strict=True))
    error = math.sqrt(sum(each / (len(part) - 1) / len(part) for each, part in zip(squares, (start, end), strict=True)))
    return means[1] - means[0], error
