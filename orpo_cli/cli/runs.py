"""`orpo runs`: a table of runs, and the best of them for a script."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from orpo_cli.cli.options import Json, Quiet
from orpo_cli.errors import UsageError
from orpo_cli.report.console import Console
from orpo_cli.report.run_history import RunHistory
from orpo_cli.rundir import RUNS_FOLDER
from orpo_cli.workflows.runs import (
    INCOMPARABLE,
    best_run,
    compares_different_pairs,
    incomparable_evaluations,
    less_is_better,
    read_runs,
    read_statuses,
    sort_runs,
)


def command(
    directories: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DIR", help="Runs, or folders with runs below. Default: runs.", show_default=False),
    ] = None,
    sort: Annotated[
        str | None, typer.Option(metavar="METRIC", help="Sort by a metric, the best run first. Default: by start.")
    ] = None,
    best: Annotated[
        str | None,
        typer.Option(metavar="METRIC", help="Print only the path of the finished run with the best value of a metric."),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the table as CSV, with every column.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List runs: what differs between them, held-out accuracy with 95% interval, time and memory.

    METRIC is a metric of the run, such as eval.accuracy, eval.loss,
    eval.margin, loss or run.seconds: its value for the saved weights, or its
    last one. max(eval.accuracy) takes the best one. Of losses, time and
    memory less is better.

    [bold]Examples[/bold]

      orpo runs
      orpo runs runs/sweep --sort eval.accuracy
      orpo runs --best eval.accuracy
      orpo runs --csv > runs.csv
    """
    if as_csv and (as_json or best is not None):
        raise UsageError(
            f"--csv and {'--json' if as_json else '--best'} do not go together.", remedy="Use one of them."
        )
    console = Console(quiet=quiet, as_json=as_json)
    chosen = directories or []
    histories = read_runs(chosen, console)
    if best is not None:
        winner = best_run(histories, best)
        if compares_different_pairs(histories, best):
            console.warn(INCOMPARABLE)
        console.result(winner.path)
        console.document(winner)
        return
    if not histories:
        is_missing = not chosen and not RUNS_FOLDER.is_dir()
        console.note(f"there is no folder {RUNS_FOLDER} here" if is_missing else "no runs found")
    read_statuses(histories, console)
    if sort is not None:
        histories = sort_runs(histories, sort)
    _print_runs(histories, console, as_csv=as_csv, sort=sort)


def _print_runs(histories: list[RunHistory], console: Console, *, as_csv: bool, sort: str | None) -> None:
    from orpo_cli.report.runs_table import run_rows, runs_csv, runs_table  # rich: --best does not need it

    rows = run_rows(histories)
    if as_csv:
        console.result(runs_csv(rows).rstrip("\r\n"))
    elif rows:
        sized = console.out.is_terminal or "COLUMNS" in os.environ
        text, left_out = runs_table(rows, console.out.width if sized else None)
        console.result(text)
        if "margin" not in left_out and any(row.saved and row.saved.margin is not None for row in rows):
            console.note("margin: log-probability per token of chosen minus that of rejected, without beta")
        if left_out:
            console.note(f"no space for: {', '.join(left_out)} (--csv has them)")
    if sort is not None and rows:
        console.note(f"sorted by {sort}, {'lowest' if less_is_better(sort) else 'highest'} first")
    if incomparable_evaluations(histories):
        console.warn(INCOMPARABLE)
    for row in rows:
        for problem in row.problems:
            console.warn(f"{row.path}: {problem}")
    console.document({"status": "listed", "runs": [row.as_dict() for row in rows]})
