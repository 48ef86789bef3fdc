"""Run: the directory that a training has written, with its records and what can be done with its model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.api import functions
from orpo_cli.api.messages import messages_for_python, problem_in_python
from orpo_cli.errors import Problem
from orpo_cli.planning.plan import Plan
from orpo_cli.rundir import RunDir

if TYPE_CHECKING:
    from datasets import Dataset

    from orpo_cli.api.functions import Answer
    from orpo_cli.exporting.export import ExportResult
    from orpo_cli.hub.check import PushCheck
    from orpo_cli.hub.push import PushResult
    from orpo_cli.merging.merge import MergeResult


class Run:
    """A run, finished or not. ``path``: its directory. Raises UsageError where there is no run."""

    @messages_for_python()
    def __init__(self, path: str | Path) -> None:
        self.rundir = RunDir.open(path)

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.rundir.root

    @property
    def status(self) -> str:
        """``running``, ``finished``, ``interrupted``, ``failed``, or ``killed`` where its process ended without a record."""
        return self.rundir.status()

    @property
    def plan(self) -> Plan:
        """Every decided value, each with its reason in ``plan.why``."""
        return self.rundir.read_plan()

    @property
    def metrics(self) -> list[dict[str, float]]:
        """Numbers of the train and eval lines of metrics.jsonl, by TRL's metric names; an evaluation has ``eval_loss``.

        ``kind``, ``time`` and the events are only in the file.
        """
        return self.rundir.read_metrics()

    @property
    def record(self) -> dict[str, Any]:
        """run.json: steps, seconds, last metrics and evaluation, versions, attempts."""
        return self.rundir.read_run()

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Warnings about the recipe, the plan, the data and the run, from run.json: ``code``, ``message``, and ``remedy`` where there is one.

        A message starts with the path in the recipe, where there is one: ``dataset.train: …``.
        """
        found = self.record.get("warnings", [])
        return tuple(
            problem_in_python(Problem(each["code"], each["message"], remedy=each.get("remedy"), severity="warning"))
            for each in found
        )

    @property
    def evaluation(self) -> dict[str, Any]:
        """evaluation.json, which ``evaluate`` writes; empty before."""
        return self.rundir.read_evaluation()

    @property
    @messages_for_python()
    def result(self) -> Path:
        """Folder of the adapter or the model. Raises UsageError before the training has finished."""
        return self.rundir.result()

    def evaluate(self, data: str | Path | Dataset | None = None, **options: Any) -> dict[str, Any]:
        """As ``orpo_cli.evaluate`` of this run."""
        return functions.evaluate(self.path, data, **options)

    def generate(self, prompts: str | Sequence[Any] | None = None, **options: Any) -> list[Answer]:
        """As ``orpo_cli.generate`` of this run, without ``prompts`` of held-out ones; ``compare=True`` adds the answers of the base model."""
        return functions.generate(self.path, prompts, **options)

    def merge(self, output: str | Path | None = None, **options: Any) -> MergeResult:
        """As ``orpo_cli.merge`` of this run."""
        return functions.merge(self.path, output, **options)

    def export(self, *formats: str, **options: Any) -> list[ExportResult]:
        """As ``orpo_cli.export`` of this run: ``run.export("gguf", gguf_types=["q8_0"])``."""
        return functions.export(self.path, *formats, **options)

    def push(self, repo_id: str | None = None, **options: Any) -> PushResult:
        """As ``orpo_cli.push`` of this run."""
        return functions.push(self.path, repo_id, **options)

    def check_push(self, repo_id: str | None = None, **options: Any) -> PushCheck:
        """Ask the hub whether it would accept ``push`` with these arguments, and send nothing. Raises UsageError, HubError, HubRefused."""
        return functions.check_push(self.path, repo_id, **options)

    def report(self, output: str | Path | None = None) -> Path:
        """Write the HTML page with curves, comparisons and samples; returns its path (default: report/index.html in the run)."""
        from orpo_cli.report.console import Console
        from orpo_cli.report.page import write_report
        from orpo_cli.workflows.report import cannot_write, find_histories, page_path

        page = page_path([self.path], None if output is None else Path(output))
        try:
            page.parent.mkdir(exist_ok=True)
            write_report(find_histories([self.path], Console(log_only=True)), page)
        except OSError as error:
            raise cannot_write(page, error) from error
        return page

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.status})"
