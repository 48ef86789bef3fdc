"""Run directory of a training: names of its files, their reading and writing, and the process that owns it.

``run_creation`` creates and removes the directory, ``run_status`` records the attempts to train the run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from orpo_cli.atomic import atomic_write_text, remove_partial_files, unused_name
from orpo_cli.checkpoint_manifest import checkpoint_step, find_checkpoints, unusable_reason
from orpo_cli.errors import MachineError, UsageError
from orpo_cli.json_files import is_number, read_json_lines, read_json_object, read_json_object_or_empty
from orpo_cli.nearest_path import folder_levels
from orpo_cli.planning.plan import Plan
from orpo_cli.run_attempts import (
    FINISHED,
    KILLED,
    RUNNING,
    attempts_of,
    last_step_without_manifest,
)
from orpo_cli.run_lock import HEARTBEAT_FILE, LOCK_FILE, RunLock, live_owner
from orpo_cli.run_records import (
    BenchmarkRecord,
    DataReportRecord,
    EvaluationRecord,
    PushesRecord,
    RunRecord,
    SamplesRecord,
    first_problem,
    read_record,
    warning_record,
    write_record,
)
from orpo_cli.run_result import find_result_damage

EVENT = "event"  # kind of lines of metrics.jsonl that have no metrics
REPAIR = "`orpo train RECIPE --resume auto` repairs it."
_REMOVE = "Move the file away: the run does not need it."


BENCHMARK_RESULT = "result.json"  # in the folder of a task
RUNS_FOLDER = Path("runs")  # `orpo train` writes runs/NAME by default


def near_run_remedy(name: str | Path, otherwise: str) -> str:
    """A question that names the run directory of the name or recipe file ``name`` in ``runs``; else those with a similar name.

    A beginning of a name, and the name of the recipe, count too. At most three, the newest first; ``otherwise`` if there is none.
    """
    path = Path(name)
    wanted = path.stem if path.suffix in (".yaml", ".yml") else path.name
    if wanted and RunDir(RUNS_FOLDER / wanted).is_run():
        return f"Did you mean {RUNS_FOLDER / wanted}?"
    is_plain = path.parent == Path()
    if not wanted or not (is_plain or path.parent.is_dir()):  # such as the name of a model on the hub
        return otherwise
    try:
        found = list(map(str, _runs_called(wanted, RUNS_FOLDER if is_plain else path.parent)[:3]))
    except OSError:
        return otherwise
    return f"Did you mean {' or '.join(filter(None, (', '.join(found[:-1]), found[-1])))}?" if found else otherwise


def _runs_called(wanted: str, folder: Path) -> list[Path]:
    """Runs below ``folder`` whose folder or recipe has a similar name or one that begins with ``wanted``, the newest first."""
    from orpo_cli.recipe.did_you_mean import closest_name  # only messages need it

    paths = (path for level in folder_levels(folder, 2) for path in level if RunDir(path).is_run())
    records = {path: read_json_object_or_empty(RunDir(path).run) for path in paths}
    names = {path: {path.name, str(record.get("name"))} for path, record in records.items()}
    known = sorted(set().union(*names.values()))
    closest = closest_name(wanted, known, 0.75)
    close = {each for each in known if each.startswith(wanted)} or {each for each in known if each == closest}
    found = [path for path in names if names[path] & close]
    return sorted(found, key=lambda path: str(records[path].get("started_at") or ""), reverse=True)


class RecipeTexts(NamedTuple):
    """The recipe of a run: as one file that trains the same, and as the user wrote it."""

    rerunnable: str
    original: str


class RunDir:
    """The directory that ``orpo train`` writes. No other module knows the file names in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock: RunLock | None = None  # held by this process
        self.run_before = ""  # run.json before the attempt of this process
        self._written: dict[str, Any] = {}  # run.json as this process wrote it last
        self.new_recipe: RecipeTexts | None = None  # of the attempt of this process, until its inputs are accepted
        self._set_aside: list[tuple[Path, Path]] = []  # (new path, path) of a damaged result
        self.attempt = 0  # number of the attempt of this process; 0 where it does not train the run
        # Of several processes only the first one changes the directory, and their parent records why an attempt ended.
        self.writes, self.ends_attempts = True, True
        self.recipe = root / "recipe.yaml"  # the recipe that was trained, complete: see rerunnable_recipe
        self.original_recipe = root / "recipe.original.yaml"  # as the user wrote it, with overrides listed on top
        self.composed = root / "composed.yaml"  # of version 0.2.0, whose recipe.yaml is the original recipe
        self.plan = root / "plan.json"  # the plan: every value with its reason
        self.run = root / "run.json"  # status, versions, fingerprints, times
        self.data_report = root / "data_report.json"  # the data report: rows read, kept, dropped by reason; lengths
        self.metrics = root / "metrics.jsonl"  # a JSON line for each logged step, evaluation and event
        self.eval_scores = (
            root / "eval_scores.jsonl"
        )  # the scores of each held-out pair, a JSON line for each evaluation
        self.tensorboard = root / "tensorboard"  # TensorBoard's files, of all attempts
        self.wandb, self.comet = root / "wandb", root / "comet"  # files of these trackers, also of runs without a login
        self.logs = root / "logs"  # the log of each attempt, and a folder with those of its ranks
        self.checkpoints = root / "checkpoints"  # the folder of the checkpoint-N folders
        self.abandoned = (
            root / "abandoned"
        )  # what belongs to an earlier result, or to steps that `--resume PATH` went back before
        self.adapter = root / "adapter"  # the trained LoRA adapter
        self.model = root / "model"  # the trained model of a run without an adapter
        self.merged = root / "merged"  # the adapter merged into its base
        self.export = root / "export"  # the results of `orpo export`, a folder for each format
        self.report = root / "report"  # folder of curves and pages
        self.card = root / "README.md"  # the model card
        self.evaluation = root / "evaluation.json"  # the results of `orpo eval`
        self.samples = root / "samples.json"  # completions for held-out prompts, from `orpo generate --compare`
        self.benchmarks = root / "benchmarks"  # the results of `orpo benchmark`, a folder for each task
        self.curves = self.report / "curves.svg"  # the curves in the model card
        self.staging = root / ".pushing"  # checkpoints while they are pushed
        self.pushes = root / "hub.json"  # the record of pushes to the hub: a later push overwrites only the files in it

    def acquire(self, note: Callable[[str], None]) -> None:
        """Own an existing run, until the ``with`` block or the process ends.

        Raises UsageError where another process owns it, MachineError where the lock cannot be written.
        """
        try:
            self.lock = RunLock.acquire(self.root, note)
        except OSError as error:
            raise MachineError(
                f"cannot lock {self.root}: {error.strerror or error}.",
                remedy="Make the directory writable, or use another one: --set output_dir=DIR.",
            ) from error

    def join(self, token: str, attempt: int, *, writes: bool) -> None:
        """Train the run as one of several processes, for their parent, which has locked it and has begun the attempt.

        ``token``: that of the lock. ``writes``: whether this is the process that changes the directory.
        """
        self.attempt, self.writes, self.ends_attempts = attempt, writes, False
        self.lock = RunLock.follow(self.root, token) if writes else None

    def has_token(self, token: str) -> bool:
        """Whether the directory is locked with this token: another machine may have another directory of the same name."""
        return RunLock.follow(self.root, token).is_held()

    def check_owned(self) -> None:
        """Raise RunLost where another process has taken the run over from this one: nothing may be changed any more."""
        if self.lock is not None:
            self.lock.check()

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, *_: object) -> None:
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    def last_logged_step(self) -> int | None:
        """The last step in metrics.jsonl."""
        lines = self.read_metrics()
        return int(lines[-1]["step"]) if lines else None

    def status(self) -> str:
        """The status of the run: running, finished, interrupted, failed, or killed where its process is gone."""
        status = str(self.read_run().get("status"))
        if status != RUNNING or self.attempt:
            return status
        return RUNNING if self.lock is None and live_owner(self.root) else KILLED

    @classmethod
    def open(cls, path: str | Path) -> RunDir:
        """The existing run that ``path`` names, as for ``find``. Raises UsageError where there is none."""
        rundir = cls.find(path, merged=True)
        if rundir is None:
            not_run = cls(Path(path))
            exists = not_run.root.exists()
            why = f" is not a run directory: it has no {not_run.run.name}." if exists else ": no such run directory."
            raise UsageError(f"{path}{why}", remedy=near_run_remedy(path, "Give the output_dir of an `orpo train`."))
        return rundir

    @classmethod
    def find(cls, path: str | Path, *, merged: bool = False) -> RunDir | None:
        """The run that ``path`` is, or whose trained adapter or model it is; None if there is none.

        `orpo train` prints the path of the adapter or model, so it names the run in every command. ``merged``: the merged model
        names its run too, in commands that accept no model.
        """
        root = Path(path)
        root = root if root.name else root.absolute()  # "." may be the adapter
        rundir, parent = cls(root), cls(root.parent)
        if rundir.is_run():
            return rundir
        results = (parent.adapter, parent.model, *([parent.merged] if merged else []))
        return parent if root in results and parent.is_run() else None

    def is_run(self) -> bool:
        """Whether the directory is a run, also one whose run.json or plan.json is lost."""
        try:
            return self.run.is_file() or (self.plan.is_file() and self.has_work())
        except PermissionError:  # it may be one: the error says more than that there is none
            raise
        except OSError:  # a name that is too long
            return False

    def read_plan(self) -> Plan:
        """The plan of the run. Raises UsageError where the file is damaged."""
        document = read_json_object(self.plan, remedy=REPAIR)
        try:
            return Plan.from_document(document)
        except (KeyError, TypeError, AttributeError, ValueError) as error:  # not what `Plan.to_document` writes
            problem = first_problem(error) if isinstance(error, ValidationError) else repr(error)
            raise UsageError(f"{self.plan} is damaged: {problem}.", remedy=REPAIR) from error

    def write_plan(self, plan: Plan) -> None:
        """Write plan.json, atomically, and the recipe of the attempt that has this plan."""
        self.check_owned()
        atomic_write_text(self.plan, plan.to_json())
        if self.new_recipe is not None:
            self.write_recipe(self.new_recipe)

    def write_recipe(self, recipe: RecipeTexts) -> None:
        """Write recipe.yaml and recipe.original.yaml."""
        self.check_owned()
        atomic_write_text(self.recipe, recipe.rerunnable)
        atomic_write_text(self.original_recipe, recipe.original)
        self.composed.unlink(missing_ok=True)

    def read_run(self) -> dict[str, Any]:
        """The content of run.json. Raises UsageError where the file is damaged."""
        return read_record(self.run, RunRecord, REPAIR)

    def write_run(self, **changes: Any) -> None:
        """Merge ``changes`` into run.json, atomically."""
        self.check_owned()
        self._written = {**self.latest_run(), **changes}
        write_record(self.run, self._written)

    def add_warning(self, code: str, message: str, remedy: str | None = None) -> None:
        """Add a warning about the run to run.json, once."""
        known = self.latest_run().get("warnings", [])
        if all((each["code"], each["message"]) != (code, message) for each in known):
            self.write_run(warnings=[*known, warning_record(code, message, remedy)])

    def latest_run(self) -> dict[str, Any]:
        """The content of run.json; if it was damaged or removed while this process trains, what this process wrote last."""
        try:
            return self.read_run() if self.run.exists() else self._written
        except (UsageError, MachineError):
            if not self._written:
                raise
            return self._written

    def read_metrics(self) -> list[dict[str, float]]:
        """The numbers in each line of metrics.jsonl that has a step and is no event."""
        lines = (
            {name: value for name, value in line.items() if is_number(value)}
            for line in read_json_lines(self.metrics)
            if line.get("kind") != EVENT
        )
        return [line for line in lines if "step" in line]

    def read_data_report(self) -> dict[str, Any]:
        """The content of data_report.json; empty if the file is absent, as the next three. UsageError where it is damaged."""
        return read_record(self.data_report, DataReportRecord, _REMOVE) if self.data_report.exists() else {}

    def write_data_report(self, report: dict[str, Any]) -> None:
        """Write data_report.json, atomically."""
        self.check_owned()
        write_record(self.data_report, report)

    def read_evaluation(self) -> dict[str, Any]:
        """The content of evaluation.json."""
        return read_record(self.evaluation, EvaluationRecord, _REMOVE) if self.evaluation.exists() else {}

    def read_samples(self) -> dict[str, Any]:
        """The content of samples.json."""
        return read_record(self.samples, SamplesRecord, _REMOVE) if self.samples.exists() else {}

    def read_benchmarks(self) -> list[dict[str, Any]]:
        """The result of each benchmark; empty without any."""
        return [
            read_record(path, BenchmarkRecord, _REMOVE)
            for path in sorted(self.benchmarks.glob(f"*/{BENCHMARK_RESULT}"))
        ]

    def read_pushes(self) -> dict[str, Any]:
        """The content of hub.json."""
        remedy = "Move the file away: the next push then reports files of the earlier ones as files of somebody else."
        return read_record(self.pushes, PushesRecord, remedy) if self.pushes.exists() else {}

    def write_pushes(self, document: dict[str, Any]) -> None:
        """Write hub.json, atomically."""
        self.check_owned()
        write_record(self.pushes, document)

    def read_recipe(self) -> str:
        """The text of the recipe that was trained; empty if the file is absent."""
        file = self.composed if self.composed.is_file() else self.recipe
        return file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""

    def result(self) -> Path:
        """The trained adapter or model. Raises UsageError if training has not finished, or files of it are lost."""
        unfinished = self.read_run().get("status") != FINISHED
        if unfinished and self.lock is None and (owner := live_owner(self.root)):
            step = self.last_logged_step()
            raise UsageError(
                f"{self.root} is still training ({owner}){'' if step is None else f', at step {step}'}.",
                remedy="Wait until the training has finished.",
            )
        path = self.adapter if self.adapter.is_dir() else self.model
        if unfinished and not path.is_dir():
            raise UsageError(
                f"{self.root} has no trained model: its status is {self.status()!r}.",
                remedy="Finish it with `orpo train RECIPE --resume auto`.",
            )
        if (damage := self.result_damage()) is not None:
            raise UsageError(
                f"the result of {self.root} is damaged: {damage}.",
                remedy="Restore it with `orpo train RECIPE --resume auto`.",
            )
        return path

    def result_damage(self) -> str | None:
        """What is missing or damaged in the result of a finished run, by names and sizes; None if it is complete."""
        return find_result_damage(self.root, self.read_run().get("result", {}), (self.adapter, self.model))

    def set_aside_result(self) -> None:
        """Rename a damaged result to NAME.damaged: its files may be the user's work."""
        names = {Path(name).parts[0] for name in self.read_run().get("result", {})}
        for path in (self.adapter, self.model):
            if path.exists() and (path.name in names or not names):
                aside = unused_name(path.with_name(f"{path.name}.damaged"))
                path.rename(aside)
                self._set_aside.append((aside, path))

    def set_aside_measurements(self) -> None:
        """Before another result replaces that of a finished run: move the files that measured it to ``abandoned``, with its step.

        ``evaluation.json`` becomes ``abandoned/evaluation.step-52.json``, and so does ``samples.json``.
        """
        steps = self.latest_run().get("steps")  # None for a damaged result that is restored
        measured = [path for path in (self.evaluation, self.samples) if path.exists() and is_number(steps)]
        for path in measured:
            self.check_owned()
            self.abandoned.mkdir(exist_ok=True)
            path.rename(unused_name(self.abandoned / f"{path.stem}.step-{steps:.0f}{path.suffix}"))

    def return_result(self) -> None:
        """Rename what ``set_aside_result`` has renamed back, where the result is not restored."""
        while self._set_aside:
            aside, path = self._set_aside.pop()
            aside.rename(path)

    def last_checkpoint(self, *, contents: bool = True) -> Path | None:
        """The newest checkpoint that is valid and finite. Reads all its files, or with ``contents=False`` only their sizes."""
        newest_first = reversed(find_checkpoints(self.checkpoints))
        return next((path for path in newest_first if self.unusable_reason(path, contents=contents) is None), None)

    def unusable_reason(self, checkpoint: Path, *, contents: bool = True) -> str | None:
        """Why the run cannot continue from one of its checkpoints; None where it can."""
        step = checkpoint_step(checkpoint) or 0
        needs_manifest = step > last_step_without_manifest(attempts_of(self.latest_run()))
        return unusable_reason(checkpoint, contents=contents, needs_manifest=needs_manifest)

    def trained(self) -> Path | None:
        """A checkpoint (also a damaged one) or a result of the run, which cost time to train; None if there is neither."""
        return next(iter(reversed(find_checkpoints(self.checkpoints))), None) or self.finished_part()

    def finished_part(self) -> Path | None:
        """A result of the run: the adapter, the model, or what was made from them; None if there is none."""
        results = (self.adapter, self.model, self.merged, self.export)
        return next((path for path in results if path.exists()), None)

    def remove_partial_files(self) -> None:
        """Remove what killed processes left of the files that they were writing."""
        for path in (
            self.recipe,
            self.original_recipe,
            self.composed,
            self.plan,
            self.run,
            self.data_report,
            self.metrics,
            self.eval_scores,
            self.card,
            self.curves,
            self.evaluation,
            self.samples,
            self.pushes,
        ):
            remove_partial_files(path)
            path.with_name(f".{path.name}.partial").unlink(missing_ok=True)  # of version 0.2.0

    def foreign_names(self) -> set[str]:
        """The names in the directory that are not from orpo."""
        return {path.name for path in self.root.iterdir() if self.is_foreign(path)}

    def is_foreign(self, path: Path) -> bool:
        """Whether a path in the directory is not from orpo."""
        own = {each.name for each in vars(self).values() if isinstance(each, Path) and each.parent == self.root}
        name = path.name
        hidden = name.startswith((HEARTBEAT_FILE, LOCK_FILE, ".pushing")) or (
            name.startswith(".") and ".partial" in name
        )
        return name not in own and not hidden

    def has_work(self) -> bool:
        """Whether the directory has anything that cost time to train, complete or not."""
        return self.finished_part() is not None or any(self.checkpoints.glob("*"))
