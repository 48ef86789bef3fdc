"""Record of a sweep, sweep.json: what was asked for, and the state of every trial. It is written after every change.

A sweep is continued with the same command. What decides the result of its trials may not change; trials may be added.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from orpo_cli.errors import UsageError
from orpo_cli.json_files import read_json_object_or_empty
from orpo_cli.run_records import Record, read_record, write_record
from orpo_cli.rundir import RunDir
from orpo_cli.sweep.search_space import Values
from orpo_cli.sweep.trials import Trial, name_trials

VERSION = 1
REMEDY = "Remove the file and repeat the command: the finished runs in trials/ are recognized, and not trained again."
REMEDY_OF_ADAPTIVE = (  # the values of its trials are nowhere else
    "Start another sweep: --output DIR. The runs in trials/ can still be used: `orpo runs {}`."
)


class State(StrEnum):
    """State of a trial."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"  # early, because of its evaluations
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # by a signal, or for training.save_before


@dataclass
class TrialState:
    """State of one trial. ``reason``: of a stop or a failure. ``evaluation``: the one that is compared, with its step."""

    trial: Trial
    state: State = State.WAITING
    reason: str | None = None
    steps: int | None = None  # planned
    seconds: float = 0.0  # of all processes of this trial
    evaluation: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """The entry in sweep.json."""
        return {
            "name": self.trial.name,
            "values": self.trial.values,
            "state": self.state.value,
            "reason": self.reason,
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "evaluation": self.evaluation,
        }


@dataclass(frozen=True)
class Definition:
    """What a sweep was asked for. ``recipe_values``: the values that the recipe and ``--set`` give, without secrets."""

    recipe: str
    overrides: list[str]
    recipe_values: dict[str, Any]
    space: dict[str, Any]
    random: int | None
    sampler: str | None
    seed: int | None
    metric: str
    early_stop: bool
    stop_from: float

    @property
    def adaptive(self) -> bool:
        """Whether the values of a trial depend on the scores of those before it."""
        return self.sampler not in (None, "random")


class _TrialRecord(Record):
    name: str
    values: dict[str, Any]
    state: Literal["waiting", "running", "finished", "stopped", "failed", "interrupted"]
    reason: str | None = None
    seconds: float = 0.0


class _SweepRecord(Record):
    version: int
    definition: dict[str, Any]
    trials: list[_TrialRecord]


class SweepDir:
    """The directory of a sweep and the names of its files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.record = root / "sweep.json"
        self.trials = root / "trials"  # the run directories
        self.logs = root / "logs"  # what the trials print
        self.winner = root / "winner.yaml"
        self.report = root / "report" / "index.html"
        self.lock = root / ".lock"

    def run(self, trial: Trial) -> Path:
        """The run directory of a trial."""
        return self.trials / trial.name

    def log(self, trial: Trial) -> Path:
        """The log of a trial."""
        return self.logs / f"{trial.name}.log"

    def is_sweep(self) -> bool:
        """Whether a sweep was started here."""
        return self.record.is_file()

    def has_only_trials(self) -> bool:
        """Whether the directory has trials, and nothing besides the files of a sweep: one whose sweep.json was removed."""
        names = {each.name for each in (self.trials, self.logs, self.winner, self.report.parent, self.lock)}
        copies = (self.record.name, f".{self.record.name}.", f".{self.winner.name}.")  # kept by the user; half written
        if not self.trials.is_dir() or any(
            each.name not in names and not each.name.startswith(copies) for each in self.root.iterdir()
        ):
            return False
        runs = self.run_folders()
        return bool(runs) and all(read_json_object_or_empty(RunDir(each).run).get("sweep") for each in runs)

    def run_folders(self) -> list[Path]:
        """What is in the folder of the runs, except runs that a killed process was creating."""
        return sorted(each for each in self.trials.iterdir() if not each.name.startswith("."))

    def write(self, definition: Definition, trials: Sequence[TrialState], winner: Mapping[str, Any] | None) -> None:
        """Write sweep.json."""
        document = {
            "version": VERSION,
            "definition": asdict(definition),
            "trials": [each.as_json() for each in trials],
            "winner": winner,
        }
        write_record(self.record, document)

    def read(self, *, adaptive: bool = False) -> tuple[dict[str, Any], list[TrialState]]:
        """The definition and the trials in sweep.json. Raises UsageError where the file is damaged.

        ``adaptive``: whether the command has no values for its trials, so that they cannot be recognized without the file.
        """
        document = read_record(self.record, _SweepRecord, REMEDY_OF_ADAPTIVE.format(self.root) if adaptive else REMEDY)
        if document["version"] > VERSION:
            raise UsageError(
                f"{self.record} is from a later version of orpo-cli.", remedy="Continue the sweep with that version."
            )
        trials = [
            TrialState(
                Trial(each["name"], each["values"]),
                State(each["state"]),
                each.get("reason"),
                seconds=each.get("seconds", 0.0),
                evaluation=each.get("evaluation"),
            )
            for each in document["trials"]
        ]
        return document["definition"], trials


def merge_trials(earlier: Sequence[TrialState], wanted: Sequence[Values], root: Path) -> list[TrialState]:
    """The trials of an extended sweep: those that it has, with their state, then the new ones.

    Raises UsageError where it has a trial that is no longer wanted.
    """
    wanted = [_plain(each) for each in wanted]
    removed = [each.trial.name for each in earlier if each.trial.values not in wanted]
    if removed:
        raise UsageError(
            f"{root}: this sweep has trials that the command does not ask for: {', '.join(removed[:5])}"
            f"{' …' if len(removed) > 5 else ''}.",
            remedy="Repeat the command that started it, with more values if you want to extend it; or start another sweep: "
            "--output DIR.",
        )
    has = [each.trial.values for each in earlier]
    new = name_trials([each for each in wanted if each not in has], [each.trial.name for each in earlier])
    return [*earlier, *map(TrialState, new)]


def refuse_changes(before: Mapping[str, Any], now: Definition, root: Path) -> None:
    """Raise UsageError where the recipe or the way to choose the values is another one than that of the sweep."""
    refuse_changed_recipe(before.get("recipe_values", {}), now.recipe_values, root)
    options = {"sampler": "--sampler", "seed": "--seed"} | ({"space": "--grid or --range"} if now.adaptive else {})
    for name, option in options.items():
        if before.get(name) != _plain(getattr(now, name)):
            raise UsageError(
                f"{root}: the sweep was started with {option} {json.dumps(before.get(name))}, and it is "
                f"{json.dumps(getattr(now, name))} now.",
                remedy="Repeat the command that started it, or start another sweep: --output DIR.",
            )


def refuse_changed_recipe(before: Mapping[str, Any], now: Mapping[str, Any], root: Path) -> None:
    """Raise UsageError where the recipe has other values than when the sweep was started."""
    changes = list(_differences(_plain(before), _plain(now)))
    if changes:
        raise UsageError(
            f"{root}: the recipe has changed since the sweep was started: {'; '.join(changes[:5])}.",
            remedy="Restore these values, or start another sweep: --output DIR.",
        )


def _differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from _differences(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif before != now:
        yield f"{path} was {json.dumps(before)}, and is {json.dumps(now)}"


def _plain(values: Any) -> Any:
    """Values as JSON reads them back."""
    return json.loads(json.dumps(values))
