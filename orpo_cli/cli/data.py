"""`orpo data`: what a recipe would train on, before any weights are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orpo_cli.atomic import atomic_write_text
from orpo_cli.cli.options import Json, Overrides, Quiet, RecipeArgument, Strict
from orpo_cli.report.console import Console
from orpo_cli.workflows.data import DataInspection, inspect_data
from orpo_cli.workflows.output_file import check_output_file

if TYPE_CHECKING:
    from rich.console import RenderableType


def command(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    show: Annotated[int, typer.Option(min=0, metavar="N", help="Print the first N pairs, token by token.")] = 0,
    row: Annotated[
        str | None,
        typer.Option(metavar="I", help="Print one pair: its number, or the name of its row (train.jsonl:17)."),
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

    Reads the data and the tokenizer, and no weights. `orpo train` uses the
    pairs prepared here.

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
    inspection = inspect_data(recipe, overrides, console, show=show, row=row, page=html is not None, strict=strict)
    if html is not None:
        from orpo_cli.report.data_page import data_page

        atomic_write_text(html, data_page(inspection.page_content()))
        console.note(f"wrote {html}")
    if not as_json:
        coloured = console.out.is_terminal and not console.out.no_color
        for renderable in _view(
            inspection, summary=row is None or html is not None, pairs=html is None, coloured=coloured
        ):
            console.result(renderable)
    console.document(inspection)


def _view(inspection: DataInspection, *, summary: bool, pairs: bool, coloured: bool) -> list[RenderableType]:
    from orpo_cli.report import data_view

    view: list[RenderableType] = []
    if summary:
        view += data_view.summary_view(inspection.report, inspection.audits, inspection.steps)
    if inspection.pairs and pairs:
        view.append(data_view.legend(loss_on_prompt=inspection.loss_on_prompt, coloured=coloured))
        view += [data_view.pair_view(pair, coloured=coloured) for pair in inspection.pairs]
    return view
