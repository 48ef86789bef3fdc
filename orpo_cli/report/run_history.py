"""Run history: what a run directory records, read for tables, reports, comparisons and assertions. Nothing is changed.

Runs of older versions, runs that go on, and damaged runs are read as far as possible; ``problems`` says what is missing.
Files are read when they are needed, so that a table of many runs is fast. Imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from orpo_cli.errors import MachineError, UsageError
from orpo_cli.json_files import (
    is_number,
    object_or_empty,
    parse_json_object,
    read_json_object,
    read_json_object_or_empty,
)
from orpo_cli.planning.plan import is_leaf
from orpo_cli.run_attempts import FINISHED, INTERRUPTED, KILLED, RUNNING, attempts_of
from orpo_cli.run_lock import live_owner
from orpo_cli.rundir import RunDir
from orpo_cli.statistics import Interval, wilson_interval

Record = dict[str, Any]
TRAIN, EVAL, EVENT = "train", "eval", "event"  # kinds of lines in metrics.jsonl
SAVED = "saved"
OF_ORPO_EVAL = ("base", "tuned", "change")  # in evaluation.json: models, and the tuned one compared with its base
STOPPED = "stopped"  # status of a trial, as in sweep.json
MARGIN = "margin"
# Short names of metrics, beside those that TRL logs.
SHORT_NAMES = {
    "accuracy": "rewards/accuracies",
    "nll": "nll_loss",
    "chosen": "logps/chosen",
    "rejected": "logps/rejected",
}
MAX_VALUE = 1e100  # of a metric; more is a damaged file, and overflows in sums and charts
MAX_DEPTH = 6  # sections of a plan in each other


def pairs_of_incomplete_step(lines: Sequence[Mapping[str, Any]], pairs_per_step: object) -> int | None:
    """The pairs of the last line of training, where its steps have fewer than ``pairs_per_step`` each; else None.

    The last step of an epoch has the pairs that are left, and its numbers are those of few pairs.
    """
    if len(lines) < 2 or not is_number(pairs_per_step):
        return None
    before, last = lines[-2:]
    if not all(is_number(line.get(name)) for line in (before, last) for name in ("pairs", "step")):
        return None
    pairs, steps = last["pairs"] - before["pairs"], last["step"] - before["step"]
    return int(pairs) if 0 < pairs < steps * pairs_per_step else None


class RunHistory:
    """What one run directory records.

    A record is a line of metrics.jsonl with the names of the file: ``eval_rewards/accuracies`` in ``evals``,
    ``rewards/accuracies`` in ``train``. Lines of older versions have no ``kind``, ``time``, ``elapsed``, ``pairs``, ``tokens``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rundir = RunDir(path)
        self.problems: list[str] = []  # of the files that have been read so far
        self._status = ""
        self.run: Record = self._document(self.rundir.run, missing="run.json is missing")  # {} where it is damaged

    @property
    def status(self) -> str:
        """running, finished, interrupted, failed, killed (its process is gone), or unknown where run.json is damaged.

        ``stopped``: a trial that its sweep has stopped early.
        Takes up to 15 s where the run trains, or was killed, on another machine.
        """
        if not self._status:  # no cached_property: that of Python 3.11 has one lock for all runs
            status = self.run.get("status")
            self._status = status if isinstance(status, str) else "unknown"
            if status == RUNNING and live_owner(self.path) is None:
                self._status = KILLED
            if status == INTERRUPTED and self._was_stopped_early():
                self._status = STOPPED
        return self._status

    def _was_stopped_early(self) -> bool:
        """Whether this is a trial that its sweep has stopped. The sweep is the one around it, wherever that was moved."""
        if not self.run.get("sweep"):
            return False
        trials = read_json_object_or_empty(self.path.resolve().parent.parent / "sweep.json").get("trials")
        return any(
            isinstance(each, dict) and each.get("name") == self.path.resolve().name and each.get("state") == STOPPED
            for each in (trials if isinstance(trials, list) else [])
        )

    @property
    def name(self) -> str:
        """The name of the run, from the recipe. Several runs may have the same one; ``path`` is unique."""
        name = self.run.get("name") or self.values.get("name")
        return name if isinstance(name, str) and name else self.path.resolve().name

    @cached_property
    def plan(self) -> Record:
        """The content of plan.json: sections, each value with its origin and reason; {} where it is damaged."""
        return self._document(self.rundir.plan, missing="plan.json is missing")

    @cached_property
    def values(self) -> dict[str, Any]:
        """The values of the plan by dotted key: ``training.beta``."""
        return {key: leaf["value"] for key, leaf in _leaves(self.plan)}

    @cached_property
    def origins(self) -> dict[str, str]:
        """The origin of each value of the plan by dotted key: recipe, override, environment, default or decided."""
        return {key: str(leaf["origin"]) for key, leaf in _leaves(self.plan)}

    @cached_property
    def recipe(self) -> str:
        """The text of the recipe."""
        try:
            return self.rundir.read_recipe()
        except OSError as error:
            self.problems.append(f"recipe.yaml cannot be read: {error.strerror or error}")
            return ""

    @cached_property
    def train(self) -> list[Record]:
        """The lines of logged steps in metrics.jsonl."""
        return self._parsed("", TRAIN)

    @cached_property
    def evals(self) -> list[Record]:
        """The lines of evaluations during training. That of step 0 is the base model."""
        return self._parsed('"eval_', EVAL)

    @cached_property
    def events(self) -> list[Record]:
        """The lines of events: attempts, checkpoints, out-of-memory retries, findings of watchdogs, the end."""
        return self._parsed('"event"', EVENT)

    @cached_property
    def last_train(self) -> Record:
        """The last line of a logged step, without reading the others; {} before the first one."""
        for line in reversed(self._lines):
            record = parse_json_object(line)
            if record is not None and is_number(record.get("step")) and kind_of(record) == TRAIN:
                return record
        return {}

    @cached_property
    def evaluation(self) -> Record:
        """The content of evaluation.json, from `orpo eval`; {} without it."""
        return self._document(self.rundir.evaluation)

    @cached_property
    def samples(self) -> Record:
        """The content of samples.json, from `orpo generate --compare`; {} without it."""
        return self._document(self.rundir.samples)

    @cached_property
    def benchmarks(self) -> list[Record]:
        """The results of `orpo benchmark`, one for each task; [] without any."""
        found = (self._document(path) for path in sorted(self.rundir.benchmarks.glob("*/result.json")))
        return [each for each in found if each]

    @cached_property
    def data_report(self) -> Record:
        """The content of data_report.json; {} without it."""
        return self._document(self.rundir.data_report) or object_or_empty(self.run.get("dataset"))

    @cached_property
    def scores(self) -> list[Record]:
        """The scores of each held-out pair, one record for each evaluation during training.

        Each has ``step``, ``pairs`` (names), ``chosen`` and ``rejected`` (mean log-probabilities per token).
        """
        return [record for line in self._text_lines(self.rundir.eval_scores) if (record := parse_json_object(line))]

    @cached_property
    def evaluations(self) -> list[Record]:
        """The evaluations on the held-out pairs: ``evals``, or without any those of base and tuned model by `orpo eval`."""
        if self.evals:
            return self.evals
        models, steps = object_or_empty(self.evaluation.get("models")), self.steps
        found = ((0, object_or_empty(models.get("base"))), (steps, object_or_empty(models.get("tuned"))))
        return [
            {"kind": EVAL, "step": step, **{f"eval_{key}": value for key, value in metrics.items() if is_number(value)}}
            | {"eval_pairs": self.evaluation.get("pairs")}
            for step, metrics in found
            if metrics and step is not None
        ]

    @property
    def base_eval(self) -> Record:
        """The evaluation of the base model, at step 0; {} without it."""
        return next((record for record in self.evaluations if record["step"] == 0), {})

    @property
    def last_eval(self) -> Record:
        """The last evaluation of the trained model; {} without it."""
        return next((record for record in reversed(self.evaluations) if record["step"] > 0), {})

    @property
    def best_eval(self) -> Record:
        """The evaluation of the trained model with the best accuracy, of equal ones that with the lowest loss; {} without it."""
        trained = [record for record in self.evaluations if record["step"] > 0]
        return max(trained, key=_by_accuracy_and_loss, default={})

    @property
    def saved_eval(self) -> Record:
        """The evaluation of the weights that the run has saved: with ``load_best_model_at_end`` those of the best checkpoint.

        The last evaluation where the run has not finished, or was not evaluated at that step.
        """
        best = str(self.run.get("best_checkpoint") or "").rpartition("-")[2]
        if (
            self.run.get("status") == FINISHED
            and self.values.get("training.load_best_model_at_end")
            and best.isdecimal()
        ):
            return next((record for record in self.evaluations if record["step"] == int(best)), self.last_eval)
        return self.last_eval

    @property
    def peak_memory_gb(self) -> float | None:
        """The most memory of all attempts; run.json has that of the last one."""
        recorded = [self.run.get("peak_memory_gb"), *(line.get("memory_gb") for line in self.train)]
        return max((each for each in recorded if is_number(each)), default=None)

    @property
    def steps(self) -> int | None:
        """The number of steps that are trained; None before the first one."""
        recorded = [self.run.get("steps"), *(each.get("to_step") for each in reversed(attempts_of(self.run)))]
        steps = next((each for each in recorded if is_number(each)), None)
        logged = self.last_train.get("step")
        if self.run.get("status") == FINISHED and steps is not None:
            return int(steps)
        return int(max((each for each in (steps, logged) if each is not None), default=0)) or None

    @property
    def total_steps(self) -> int | None:
        """The number of steps that the run is to have; None where it is not recorded."""
        started = [record.get("steps") for record in self.events if record.get("event") == "attempt"]
        return next((int(each) for each in reversed(started) if is_number(each)), None)

    def accuracy_interval(self, record: Record) -> Interval | None:
        """Wilson 95% interval of the accuracy of an evaluation; None where the number of its pairs is not known."""
        accuracy, pairs = metric_value(record, "accuracy", "eval_"), self.effective_pairs(record)
        if accuracy is None or not 0 <= accuracy <= 1 or pairs is None:
            return None  # not recorded, or damaged
        return wilson_interval(accuracy * pairs, pairs)

    def effective_pairs(self, record: Record) -> float | None:
        """The number of pairs of an evaluation, with weights the effective one; None where it is not known."""
        weights = self.data_report.get("weights")
        weighted = weights.get("eval") if isinstance(weights, dict) else None
        pairs: Any = record.get("eval_pairs") or self.data_report.get("eval_pairs")
        if isinstance(weighted, dict):  # a mean of weighted pairs is as sure as one of fewer pairs
            pairs = weighted.get("effective_pairs")
        return pairs if is_number(pairs) and 1 <= pairs < 1e12 else None

    def metric(self, name: str) -> list[float]:
        """The values of a metric in the order of the steps, by its name in ``metric_names``; [] without any."""
        return [value for _, value in self.points(name)]

    def points(self, name: str) -> list[tuple[Record, float]]:
        """The values of a metric, each with the record that it is from (``step``, ``elapsed``, ``pairs``, …).

        Names: ``loss``, ``rewards/margins`` of the logged steps (also ``train.loss``); ``eval.loss``, ``eval.accuracy`` of the
        evaluations (also ``eval_loss``); ``saved.accuracy`` of the evaluation of the saved weights; ``base.accuracy``, ``tuned.accuracy``, ``change.margin_low`` of `orpo eval`; ``run.steps``, ``run.seconds``
        and the other numbers of run.json. ``margin`` is the margin in log-probability, chosen minus rejected in nats per token:
        other than ``rewards/margins`` it does not have the factor beta, so that runs of different beta can be compared.
        """
        source, metric = _source_and_metric(name)
        prefix = "eval_" if source in (EVAL, SAVED) else ""
        values = ((record, metric_value(record, metric, prefix)) for record in self._records_of(source))
        return [(record, value) for record, value in values if value is not None]

    def evaluation_values(self, name: str) -> list[float | None]:
        """The value of a metric such as ``eval.loss`` in each evaluation; None where it was not a finite number.

        [] for a metric of another source.
        """
        source, metric = _source_and_metric(name)
        return [metric_value(each, metric, "eval_") for each in self.evaluations] if source == EVAL else []

    def metric_names(self) -> list[str]:
        """The names that ``metric`` has values for in this run."""
        short = {full: name for name, full in SHORT_NAMES.items()}
        names = []
        for source in (TRAIN, EVAL, SAVED, *OF_ORPO_EVAL, "run"):
            records = self._records_of(source)
            keys = dict.fromkeys(key for record in records for key, value in record.items() if is_number(value))
            if source in (EVAL, SAVED):
                keys = dict.fromkeys(key.removeprefix("eval_") for key in keys if key.startswith("eval_"))
            if {"logps/chosen", "logps/rejected"} <= keys.keys():
                keys |= {MARGIN: None}
            prefix = "" if source == TRAIN else f"{source}."
            names += [f"{prefix}{each}" for key in keys for each in (key, short.get(key)) if each]
        return names

    def lacks_evaluation_of(self, name: str) -> bool:
        """Whether a metric is one of `orpo eval` (``tuned.accuracy``), which has not evaluated the run."""
        source = name.partition(".")[0]
        return source in OF_ORPO_EVAL and not any(self._records_of(source))

    def _records_of(self, source: str) -> list[Record]:
        if source == TRAIN:
            return self.train
        if source == EVAL:
            return self.evaluations
        if source == SAVED:
            return [self.saved_eval]
        if source == "change":
            return [self._change_of_orpo_eval()]
        if source in OF_ORPO_EVAL:
            return [object_or_empty(object_or_empty(self.evaluation.get("models")).get(source))]
        return [self.run] if source == "run" else []

    def _change_of_orpo_eval(self) -> Record:
        """The change of each metric from base to tuned, and the 95% interval of that of the margin, without beta."""
        change = object_or_empty(self.evaluation.get("change"))
        interval = object_or_empty(change.get("intervals")).get("margin")
        if not isinstance(interval, list) or not all(map(is_number, interval)):
            return change
        return {**change, **dict(zip(("margin_low", "margin_high"), interval, strict=False))}

    @cached_property
    def _lines(self) -> list[str]:
        return self._text_lines(self.rundir.metrics)

    def _parsed(self, containing: str, kind: str) -> list[Record]:
        """The records of one kind. Only lines that contain a text are parsed, because parsing takes most of the time."""
        records = (parse_json_object(line) for line in self._lines if containing in line)
        return [
            record
            for record in records
            if record is not None and is_number(record.get("step")) and kind_of(record) == kind
        ]

    def _text_lines(self, path: Path) -> list[str]:
        try:
            return path.read_text(encoding="utf-8", errors="replace").split("\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            self.problems.append(f"{path.name} cannot be read: {error.strerror or error}")
            return []

    def _document(self, path: Path, missing: str = "") -> Record:
        try:
            return read_json_object(path) if missing or path.exists() else {}
        except (UsageError, MachineError) as error:
            absent = missing and not os.path.lexists(path)
            self.problems.append(missing if absent else error.message.removeprefix(f"{path.parent}/").rstrip("."))
            return {}


def read_history(path: str | Path) -> RunHistory:
    """The history of a run directory. Raises UsageError where ``path`` is not one; a damaged one has ``problems``."""
    return RunHistory(RunDir.open(path).root)


def kind_of(record: Record) -> str:
    """The kind of a line of metrics.jsonl: train, eval or event. Older versions did not write it."""
    kind = record.get("kind")
    if isinstance(kind, str):
        return kind
    return EVAL if any(name.startswith("eval_") for name in record) else TRAIN


def _source_and_metric(name: str) -> tuple[str, str]:
    """``("eval", "loss")`` of ``eval.loss`` and ``eval_loss``; a name without a source is one of the logged steps."""
    if name.startswith("eval_"):
        return EVAL, name.removeprefix("eval_")
    source, _, metric = name.partition(".")
    return (source, metric) if metric else (TRAIN, name)


def metric_value(record: Record, name: str, prefix: str = "") -> float | None:
    """The value of a metric in one record, by its TRL name or short name, or ``margin``; ``prefix``: "eval_" for evaluations."""
    if name == MARGIN:
        chosen, rejected = (metric_value(record, each, prefix) for each in ("chosen", "rejected"))
        return None if chosen is None or rejected is None else chosen - rejected
    value = record.get(f"{prefix}{SHORT_NAMES.get(name, name)}")
    return float(value) if is_number(value) and abs(value) < MAX_VALUE else None


def _by_accuracy_and_loss(record: Record) -> tuple[float, float]:
    accuracy, loss = (metric_value(record, name, "eval_") for name in ("accuracy", "loss"))
    return -1.0 if accuracy is None else accuracy, float("-inf") if loss is None else -loss


def _leaves(document: Record, prefix: str = "") -> Iterator[tuple[str, Record]]:
    for key, entry in document.items():
        if isinstance(entry, dict):
            if is_leaf(entry):
                yield f"{prefix}{key}", entry
            elif prefix.count(".") < MAX_DEPTH:
                yield from _leaves(entry, f"{prefix}{key}.")
