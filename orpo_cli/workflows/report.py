"""Report of runs (`orpo report`): the page, charts for papers, assertions, and a page that follows runs that go on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpo_cli.atomic import atomic_write_text
from orpo_cli.errors import MachineError, RunError, UsageError
from orpo_cli.os_errors import explain_os_error
from orpo_cli.report.assertions import Assertion, check_assertions
from orpo_cli.report.console import Console
from orpo_cli.report.run_history import RunHistory, read_history
from orpo_cli.report.svg_charts import charts_of_runs
from orpo_cli.run_attempts import RUNNING
from orpo_cli.run_lock import live_owner
from orpo_cli.rundir import RunDir
from orpo_cli.workflows.output_file import check_output_file
from orpo_cli.workflows.runs import read_runs, read_statuses

FOLLOW_SECONDS = 5.0
GENERATOR = '<meta name="generator" content="orpo-cli">'  # in the head of every page
MAX_HEAD_BYTES = 2000
PAGE, PAGE_OF_SEVERAL = "index.html", Path("report.html")


@dataclass(frozen=True)
class Report:
    """What `orpo report` has written. ``assertions``: by the path of the run; ``error``: where one does not hold."""

    page: Path
    runs: list[str]
    comparisons: list[dict[str, Any]] = field(default_factory=list)  # on the same held-out pairs
    charts: list[Path] = field(default_factory=list)
    assertions: dict[str, list[Assertion]] = field(default_factory=dict)
    error: RunError | None = None

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        assertions = [{"run": run, **vars(each)} for run, results in self.assertions.items() for each in results]
        document = {
            "status": "written",
            "page": self.page,
            "runs": self.runs,
            "comparisons": self.comparisons,
            "charts": self.charts,
            "assertions": assertions,
        }
        if self.error is not None:
            document |= {
                "status": self.error.kind,
                "exit_code": self.error.exit_code,
                "message": self.error.message,
                "remedy": None,
            }
        return document


def find_histories(paths: Sequence[Path], console: Console) -> list[RunHistory]:
    """The runs of a report, each once: a path that is a run, or all runs below a folder, such as a sweep.

    Raises UsageError where a path has no run.
    """
    found: dict[Path, RunHistory] = {}
    for path in paths:
        histories = [read_history(path)] if path.is_dir() and RunDir(path).is_run() else read_runs([path], console)
        if not histories:
            raise UsageError(f"{path}: no run there or below.", remedy="Give the output_dir of an `orpo train`.")
        found |= {each.path.resolve(): each for each in histories if each.path.resolve() not in found}
    return list(found.values())


def page_path(paths: Sequence[Path], output: Path | None) -> Path:
    """Where the page is written: ``output``, ``report/index.html`` of the one path, or report.html here for several.

    Raises UsageError where an ``output`` cannot be written, or the default is a file that is not a report.
    """
    if output is not None:
        check_output_file(output, overwrite=True)
        return output
    page = RunDir(paths[0]).report / PAGE if len(paths) == 1 else PAGE_OF_SEVERAL
    if os.path.exists(page) and not _is_report(page):
        raise UsageError(f"{page} exists already, and is not a report.", remedy="Choose another file: --output FILE.")
    return page


def _is_report(path: Path) -> bool:
    with suppress(OSError), path.open("rb") as file:
        return GENERATOR.encode() in file.read(MAX_HEAD_BYTES)
    return False


def check_all(histories: Sequence[RunHistory], expressions: Sequence[str]) -> dict[str, list[Assertion]]:
    """The results of all assertions for each run. Raises UsageError for a wrong one."""
    return {str(each.path): check_assertions(each, expressions) for each in histories} if expressions else {}


def error_of_failed(results: dict[str, list[Assertion]]) -> RunError | None:
    """The error (exit code 5) with the values of every assertion that does not hold; None where all hold."""
    failed = [f"{run}: {each.text()}" for run, all_of_run in results.items() for each in all_of_run if not each.holds]
    if not failed:
        return None
    count = sum(map(len, results.values()))
    lines = "".join(f"\n  {each}" for each in failed)
    return RunError(f"{len(failed)} of {count} assertions failed.{lines}")


def write_charts(histories: Sequence[RunHistory], folder: Path) -> list[Path]:
    """Write an SVG image of each chart to ``folder``, which is made. Raises MachineError where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name, image in charts_of_runs(histories).items():
            atomic_write_text(folder / f"{name}.svg", image)
            written.append(folder / f"{name}.svg")
    except OSError as error:
        raise cannot_write(folder, error) from error
    return written


def follow(paths: Sequence[Path], write: Callable[[Sequence[RunHistory], bool], None], console: Console) -> None:
    """Write the page again every few seconds until no run goes on, and a last time at the end or at Ctrl-C.

    ``write``: with the runs, and whether the page is to reload itself. Runs that begin meanwhile are added. A sweep goes on also
    between two trials, and before its first one.
    """
    while _is_going_on(paths) and not _has_runs(paths):
        time.sleep(FOLLOW_SECONDS)
    histories = _with_statuses(paths, console)
    quiet = Console(quiet=True, log_only=True)  # what is damaged was said once
    try:
        while any(each.status == RUNNING for each in histories) or _is_going_on(paths):
            write(histories, True)
            time.sleep(FOLLOW_SECONDS)
            histories = _with_statuses(paths, quiet)
    finally:
        write(_with_statuses(paths, quiet), False)


def _with_statuses(paths: Sequence[Path], console: Console) -> list[RunHistory]:
    histories = find_histories(paths, console)
    read_statuses(histories, console)
    return histories


def _is_going_on(paths: Sequence[Path]) -> bool:
    """Whether a process owns one of the runs or sweeps."""
    return any(live_owner(path) is not None for path in paths)


def _has_runs(paths: Sequence[Path]) -> bool:
    quiet = Console(quiet=True, log_only=True)
    return all(RunDir(path).is_run() or read_runs([path], quiet) for path in paths)


def cannot_write(path: Path, error: OSError) -> MachineError:
    """The error of a report that cannot be written."""
    message = f"cannot write {path}"
    return explain_os_error(error, message) or MachineError(
        f"{message}: {error.strerror or error}.", remedy="Choose another place: --output FILE."
    )
