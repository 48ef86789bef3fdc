"""`orpo report`: one HTML page of one run or many, charts for papers, assertions for CI."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from orpo_cli.cli.completion import complete_run
from orpo_cli.cli.options import Json, Quiet
from orpo_cli.report.comparisons import comparison_lines, comparisons_with_base, comparisons_with_first
from orpo_cli.report.console import Console
from orpo_cli.report.run_differences import run_labels
from orpo_cli.report.run_history import RunHistory
from orpo_cli.workflows.report import (
    FOLLOW_SECONDS,
    Report,
    cannot_write,
    check_all,
    error_of_failed,
    find_histories,
    follow,
    page_path,
    write_charts,
)
from orpo_cli.workflows.runs import read_statuses, run_or_folder


def command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN", autocompletion=complete_run, help="Runs, or folders with runs below, such as a sweep."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write. Default: report/index.html in the run or folder; report.html here for several.",
        ),
    ] = None,
    assertions: Annotated[
        list[str] | None,
        typer.Option(
            "--assert", metavar="EXPR", help="Check a claim about every run; repeatable. Exit code 5 if it fails."
        ),
    ] = None,
    follow_runs: Annotated[
        bool, typer.Option("--follow", help="Write the page again every 5 seconds until no run goes on.")
    ] = False,
    svg: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write each chart as an SVG image to this folder.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write one self-contained HTML page of one run or many: curves, comparisons, samples, plan, data.

    The comparison on the same held-out pairs is printed, too: of one run with
    its base, of several with the first one.

    The page needs no network. Assertions are expressions over metrics:
    eval.accuracy[-1] is the last evaluation, saved.accuracy that of the saved
    weights; min, max, mean, first, last, comparisons, and, or.

    [bold]Examples[/bold]

      orpo report runs/quickstart
      orpo report runs/first runs/second -o comparison.html
      orpo report runs/sweep --svg figures
      orpo report runs/quickstart --follow
      orpo report runs/quickstart --assert "eval.accuracy[-1] > 0.7"
    """
    from orpo_cli.report.page import write_report

    console = Console(quiet=quiet, as_json=as_json)
    runs = [run_or_folder(each) for each in runs]
    page = page_path(runs, output)

    def write(histories: Sequence[RunHistory], reload: bool) -> None:
        try:
            page.parent.mkdir(exist_ok=True)
            write_report(histories, page, reload_seconds=FOLLOW_SECONDS if reload else None)
        except OSError as error:
            raise cannot_write(page, error) from error

    if follow_runs:
        console.note(f"writing {page} every {FOLLOW_SECONDS:g} s; open it in a browser. Ctrl-C ends it.")
        follow(runs, write, console)
    histories = find_histories(runs, console)
    results = check_all(histories, assertions or [])
    read_statuses(histories, console)
    if not follow_runs:
        write(histories, False)
    charts = write_charts(histories, svg) if svg is not None else []
    compare = comparisons_with_base if len(histories) == 1 else comparisons_with_first
    compared = compare(histories, run_labels(histories))
    for line in comparison_lines(compared):
        console.note(line)
    for each in (result for of_run in results.values() for result in of_run if result.holds):
        console.note(each.text())
    error = error_of_failed(results)
    console.result(str(page))
    console.document(Report(page, [str(each.path) for each in histories], compared, charts, results, error))
    if error is not None:
        raise error
