"""`orpo data`: what a recipe would train on, before any weights are loaded."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from orpo_cli.atomic import atomic_write_text
from orpo_cli.cli.options import Json, Overrides, Quiet, RecipeArgument, Strict
from orpo_cli.control_characters import one_line
from orpo_cli.report.console import Console
from orpo_cli.workflows.data import DataInspection, inspect_data
from orpo_cli.workflows.output_file import check_output_file

if TYPE_CHECKING:
    from rich.console import RenderableType


def command(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    show: Annotated[int, typer.Option(min=0, metavar="N", help="Print only the first N pairs, token by token.")] = 0,
    row: Annotated[
        list[str] | None,
        typer.Option(
            metavar="I", help="Print only this pair: its number, or the name of its row (train.jsonl:17); repeatable."
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write one self-contained HTML page: the summary, the first N pairs (default: 1,000) and the dropped rows.",
        ),
    ] = None,
    strict: Strict = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a recipe would train on: counts, dropped rows, lengths, and pairs with the loss mask of each token.

    Reads the data and the tokenizer, and no weights (a .gguf file is first
    converted, once). `orpo train` uses the pairs prepared here.

    [bold]Examples[/bold]

      orpo data my.yaml
      orpo data my.yaml --show 3
      orpo data my.yaml --row train.jsonl:17
      orpo data my.yaml --html pairs.html
      orpo data my.yaml --set training.max_length=1024 --json
    """
    console = Console(quiet=quiet, as_json=as_json)
    if html is not None:
        check_output_file(html, overwrite=True, option="--html")
    inspection = inspect_data(
        recipe, overrides, console, show=show, rows=row or (), page=html is not None, strict=strict
    )
    if html is not None:
        from orpo_cli.report.data_page import data_page

        atomic_write_text(html, data_page(inspection.page_content()))
        console.note(f"wrote {html}")
    if not as_json:
        terminal, only_pairs = console.out.is_terminal, html is None and (show > 0 or bool(row))
        if only_pairs:
            view = _pairs_view(inspection, recipe, coloured=terminal and not console.out.no_color)
        else:
            view = _summary_view(inspection)
        for renderable in view:
            # lines of a terminal end between words, except in the tokens of a pair
            console.out.print(renderable, soft_wrap=not (terminal and isinstance(renderable, Text)))
    console.document(inspection)


def _summary_view(inspection: DataInspection) -> Iterator[RenderableType]:
    from orpo_cli.report.data_view import summary_view

    yield from summary_view(inspection.report, inspection.audits, inspection.steps)


def _pairs_view(inspection: DataInspection, recipe: str, *, coloured: bool) -> Iterator[RenderableType]:
    """The pairs to show, and in the last line how many there are in all."""
    from orpo_cli.report import data_view

    if inspection.pairs:
        yield data_view.legend(loss_on_prompt=inspection.loss_on_prompt, coloured=coloured)
    for pair in inspection.pairs:
        yield data_view.pair_view(pair, coloured=coloured)
    for text in inspection.dropped_rows.values():
        yield Text(one_line(text))
    report = inspection.report
    counts = f"{report.train_pairs:,} training pairs, {report.eval_pairs:,} held out"
    if report.dropped:
        counts += f", {sum(report.dropped.values()):,} rows dropped"
    yield Text(one_line(f"in all: {counts}. Statistics: orpo data {shlex.quote(recipe)}"))
