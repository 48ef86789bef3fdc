"""Run directory of a training: names of its files, their reading and writing, and the status of the run."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
from pathlib import Path
from typing import Any

from orpo_cli.atomic import atomic_write_text
from orpo_cli.checkpoint_manifest import find_checkpoints, unusable_reason
from orpo_cli.control_characters import escape_json_controls
from orpo_cli.errors import MachineError, UsageError
from orpo_cli.json_files import read_json_lines, read_json_object, read_json_object_or_empty
from orpo_cli.plan.plan import Plan
from orpo_cli.redaction import redact_record

RUNNING, FINISHED, INTERRUPTED, FAILED = "running", "finished", "interrupted", "failed"
_DAMAGED = "The run directory is damaged."


class RunDir:
    """The directory that ``orpo train`` writes. No other module knows the file names in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe = root / "recipe.yaml"  # the recipe as the user wrote it, with overrides listed on top
        # with the recipes that it extends and the environment variables that it uses, where it has any
        self.composed = root / "composed.yaml"
        self.plan = root / "plan.json"  # the plan: every value with its reason
        self.run = root / "run.json"  # status, versions, fingerprints, times
        self.data_report = root / "data_report.json"  # the data report: rows read, kept, dropped by reason; lengths
        self.metrics = root / "metrics.jsonl"  # a JSON line for each logged step and evaluation
        self.checkpoints = root / "checkpoints"  # the folder of the checkpoint-N folders
        self.adapter = root / "adapter"  # the trained LoRA adapter
        self.model = root / "model"  # the trained model of a run without an adapter
        self.merged = root / "merged"  # the adapter merged into its base
        self.export = root / "export"  # the results of `orpo export`, a folder for each format
        self.report = root / "report"  # folder of curves and pages
        self.card = root / "README.md"  # the model card
        self.evaluation = root / "evaluation.json"  # the results of `orpo eval`
        self.samples = root / "samples.json"  # completions for held-out prompts, from `orpo generate --compare`
        self.curves = self.report / "curves.svg"  # the curves in the model card
        self.staging = root / ".pushing"  # checkpoints while they are pushed
        self.pushes = root / "hub.json"  # the record of pushes to the hub: a later push overwrites only the files in it

    @classmethod
    def create(cls, plan: Plan, recipe_text: str, composed_text: str | None = None) -> RunDir:
        """Start a run in a directory that is absent or empty.

        Raises UsageError if it is in use, MachineError if it cannot be written.
        """
        rundir = cls(Path(plan.output_dir))
        rundir.raise_if_in_use()
        try:
            rundir.checkpoints.mkdir(parents=True)
        except OSError as error:
            raise MachineError(
                f"cannot make {rundir.root}: {error.strerror or error}.",
                remedy="Choose another directory: --set output_dir=DIR.",
            ) from error
        try:
            atomic_write_text(rundir.recipe, recipe_text)
            if composed_text is not None:
                atomic_write_text(rundir.composed, composed_text)
            rundir.write_plan(plan)
            rundir.write_run(status=RUNNING, name=plan.name, pid=os.getpid(), host=platform.node())
        except MachineError:
            rundir.discard()
            raise
        return rundir

    def raise_if_in_use(self) -> None:
        """Raise UsageError if the directory is not empty."""
        if self.root.exists() and not self.root.is_dir():
            raise UsageError(f"output_dir {self.root} is a file.", remedy="Choose another: --set output_dir=DIR.")
        if not self.root.is_dir() or not any(self.root.iterdir()):
            return
        rename = "use another directory (--set output_dir=DIR)"
        if not self.is_run():
            raise UsageError(
                f"output_dir {self.root} is not empty, and is not a run.", remedy=f"Empty it, or {rename}."
            )
        status = self.read_run().get("status")
        if self.is_alive():
            raise UsageError(
                f"output_dir {self.root}: a run is going on there (process {self.read_run().get('pid')}).",
                remedy=f"Wait for it, or {rename}.",
            )
        go_on = "" if status == FINISHED else "resume it (--resume auto), "
        raise UsageError(
            f"output_dir {self.root} already has a run (status: {status}).",
            remedy=f"Either {go_on}{rename}, or remove it (rm -r {shlex.quote(str(self.root))}).",
        )

    def is_alive(self) -> bool:
        """Whether the process of this run is still running."""
        run = self.read_run()
        if run.get("status") != RUNNING or run.get("host") != platform.node() or run.get("pid") == os.getpid():
            return False
        try:
            os.kill(int(run["pid"]), 0)
        except (OSError, KeyError, ValueError):
            return False
        return True

    @classmethod
    def open(cls, path: str | Path) -> RunDir:
        """An existing run. Raises UsageError where ``path`` is not one."""
        rundir = cls(Path(path))
        if not rundir.is_run():
            exists = rundir.root.exists()
            why = f" is not a run directory: it has no {rundir.run.name}." if exists else ": no such run directory."
            raise UsageError(f"{path}{why}", remedy="Give the output_dir of an `orpo train`.")
        return rundir

    def is_run(self) -> bool:
        """Whether the directory is a run."""
        return self.run.is_file() and self.plan.is_file()

    def read_plan(self) -> Plan:
        """The plan of the run."""
        return Plan.from_document(read_json_object(self.plan, remedy=_DAMAGED))

    def write_plan(self, plan: Plan) -> None:
        """Write plan.json, atomically."""
        atomic_write_text(self.plan, plan.to_json())

    def read_run(self) -> dict[str, Any]:
        """The content of run.json."""
        return read_json_object(self.run, remedy=_DAMAGED)

    def write_run(self, **changes: Any) -> None:
        """Merge ``changes`` into run.json, atomically."""
        before = self.read_run() if self.run.exists() else {}
        write_record(self.run, {**before, **changes})

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; none before the first logged step."""
        return read_json_lines(self.metrics)

    def read_data_report(self) -> dict[str, Any]:
        """The content of data_report.json; empty if the file is absent, as the next three."""
        return read_json_object_or_empty(self.data_report)

    def read_evaluation(self) -> dict[str, Any]:
        """The content of evaluation.json."""
        return read_json_object_or_empty(self.evaluation)

    def read_samples(self) -> dict[str, Any]:
        """The content of samples.json."""
        return read_json_object_or_empty(self.samples)

    def read_pushes(self) -> dict[str, Any]:
        """The content of hub.json."""
        return read_json_object_or_empty(self.pushes)

    def read_recipe(self) -> str:
        """The text of the recipe, composed if it extends another one; empty if the file is absent."""
        file = self.composed if self.composed.is_file() else self.recipe
        return file.read_text(encoding="utf-8").strip() if file.is_file() else ""

    def result(self) -> Path:
        """The trained adapter or model. Raises UsageError if training has not finished."""
        for path in (self.adapter, self.model):
            if path.is_dir():
                return path
        status = self.read_run().get("status")
        raise UsageError(
            f"{self.root} has no trained model: its status is {status!r}.",
            remedy="Finish it with `orpo train RECIPE --resume auto`.",
        )

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that is valid and finite. Reads all its files."""
        newest_first = reversed(find_checkpoints(self.checkpoints))
        return next((path for path in newest_first if unusable_reason(path) is None), None)

    def trained(self) -> Path | None:
        """A checkpoint (also a damaged one) or a result of the run, which cost time to train; None if there is neither."""
        results = (self.adapter, self.model, self.merged, self.export)
        kept = (*reversed(find_checkpoints(self.checkpoints)), *results)
        return next((path for path in kept if path.exists()), None)

    def discard(self) -> None:
        """Remove the directory of a run that failed before its first step.

        Raises UsageError, and removes nothing, if the directory has a checkpoint or a result.
        """
        if (kept := self.trained()) is not None:
            raise UsageError(
                f"{self.root} is not removed: it has {kept}.",
                remedy="Use another directory (--set output_dir=DIR), or move that away.",
            )
        shutil.rmtree(self.root, ignore_errors=True)


def write_record(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON record of a run, such as ``RunDir.samples``: atomically, without secrets."""
    atomic_write_text(
        path, escape_json_controls(json.dumps(redact_record(document), indent=2, ensure_ascii=False)) + "\n"
    )
