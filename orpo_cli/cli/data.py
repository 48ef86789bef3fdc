"""``orpo data``: what would be trained on, before any weights are loaded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orpo_cli.cli.options import Json, Overrides, Quiet, RecipeArgument, Strict
from orpo_cli.errors import MachineError, UsageError
from orpo_cli.plan.plan import Plan
from orpo_cli.report.console import Console
from orpo_cli.secret_values import mask_secrets
from orpo_cli.workflows.plan import build_plan, load_recipe_reporting

if TYPE_CHECKING:
    from orpo_cli.data.prepare import PairTables
    from orpo_cli.data.token_spans import TokenSpan


def command(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    show: Annotated[
        int, typer.Option("--show", min=0, metavar="N", help="Print the first N pairs, token by token.")
    ] = 0,
    row: Annotated[
        str | None,
        typer.Option("--row", metavar="I", help="Print one pair: its number, or the name of its row (train.jsonl:17)."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the same as one self-contained page.")
    ] = None,
    strict: Strict = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a recipe would train on: counts, drops, lengths, pairs with the purpose of each token.

    Reads the data and the tokenizer; no weights. What is prepared here is what `orpo train` reads.

    [bold]Examples[/bold]

      orpo data my.yaml
      orpo data my.yaml --show 3
      orpo data my.yaml --row train.jsonl:17
      orpo data my.yaml --show 20 --html pairs.html
      orpo data my.yaml --set training.max_length=1024 --json
    """
    console = Console(quiet=quiet, as_json=as_json)
    if html is not None and not html.absolute().parent.is_dir():
        raise UsageError(f"--html {html}: there is no folder {html.absolute().parent}.", remedy="Make it first.")
    loaded = load_recipe_reporting(recipe, overrides, console, strict=strict)
    plan = build_plan(loaded, console, to_train=False, strict=strict).plan
    parts, shown = _prepared(plan, console, show, row)

    from rich.console import RenderableType

    from orpo_cli.data.audit import audit
    from orpo_cli.report import data_view

    tables = {"train": parts.train} | ({"eval": parts.eval} if parts.eval is not None else {})
    audits = {part: audit(table, parts.report.max_length) for part, table in tables.items()}
    steps = _steps(plan, len(parts.train))
    purposes = _purposes(plan)

    def view(*, coloured: bool) -> list[RenderableType]:
        lines = [] if row is not None and html is None else list(data_view.summary(parts.report, audits, steps))
        if shown:
            lines.append(data_view.legend(purposes, coloured=coloured))
        return lines + [data_view.pair_view(name, number, pieces, coloured=coloured) for name, number, pieces in shown]

    if html is not None:
        _write(html, data_view.page(view(coloured=True), mask_secrets(f"{plan.name}: what is trained on")))
        console.note(f"wrote {html}")
    if not as_json:
        for line in view(coloured=console.out.is_terminal and not console.out.no_color):
            console.result(line)
    console.document(
        {
            "status": "ok",
            "report": parts.report.as_dict(),
            "audit": {part: found.as_dict() for part, found in audits.items()},
            "steps": steps,
            "pairs": [
                {
                    "pair": number,
                    "row": name,
                    **{part: [piece._asdict() for piece in pieces] for part, pieces in found.items()},
                }
                for name, number, found in shown
            ],
        }
    )


def _prepared(
    plan: Plan, console: Console, show: int, row: str | None
) -> tuple[PairTables, list[tuple[str, int, dict[str, list[TokenSpan]]]]]:
    """The tables, and the pairs that were asked for: row name, number and pieces."""
    from orpo_cli.data.chat_template import renderer
    from orpo_cli.data.prepare import prepare_tables
    from orpo_cli.data.token_spans import token_spans
    from orpo_cli.data.tokenize import encoder
    from orpo_cli.model.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(plan.model, console.note)
    assert plan.dataset.max_prompt_length is not None, "the plan decides it"
    parts = prepare_tables(
        plan.dataset,
        tokenizer,
        max_length=plan.training["max_length"],
        max_prompt_length=plan.dataset.max_prompt_length,
        note=console.note,
        pairs_needed=plan.total_pairs(),
    )
    wanted = (
        _rows(parts, row)
        if row is not None
        else parts.train.select(range(min(show, len(parts.train))))
        if show
        else None
    )
    if wanted is None:
        return parts, []
    ends = encoder(tokenizer, renderer(tokenizer).end_tokens).end_token_ids
    on_prompt = bool(plan.training.get("loss_on_prompt", True))
    return parts, [
        (pair["row"], pair["pair"], token_spans(pair, tokenizer, ends, loss_on_prompt=on_prompt))
        for pair in wanted.dataset()
    ]


def _rows(parts: PairTables, row: str) -> Any:
    """The pair with this number or row name. Raises UsageError where there is none."""
    for table in (parts.train, *([parts.eval] if parts.eval else [])):
        found = [position for position, name in enumerate(table.row_names()) if name == row]
        if row.isdigit():
            found = [position for position, number in enumerate(table.pair_numbers) if number == int(row)]
        if found:
            return table.select(found[:1])
    raise UsageError(
        f"--row {row}: no pair of that number or name is trained on or held out.",
        remedy=f"There are the numbers 0 to {max(parts.train.pair_numbers)}, and names such as {parts.train.select([0]).row_names()[0]}; "
        "the summary says why rows are left out.",
    )


def _purposes(plan: Plan) -> dict[str, str]:
    from orpo_cli.report.data_view import LEGEND

    unused = "prompt" if plan.training.get("loss_on_prompt", True) else "prompt_nll"
    return {purpose: meaning for purpose, meaning in LEGEND.items() if purpose != unused}


def _steps(plan: Plan, pairs: int) -> dict[str, Any]:
    """How training goes through the pairs."""
    processes = plan.launch.num_processes
    training = plan.training
    per_step = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
    per_step *= processes if isinstance(processes, int) else 1
    an_epoch = max(1, math.ceil(pairs / per_step))
    most = training.get("max_steps") or -1
    steps = most if most > 0 else math.ceil(an_epoch * training.get("num_train_epochs", 3))
    return {
        "pairs_per_step": per_step,
        "steps_per_epoch": an_epoch,
        "steps": steps,
        "epochs": round(steps / an_epoch, 2),
    }


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MachineError(
            f"--html {path}: cannot be written: {error.strerror}.", remedy="Choose another place."
        ) from error
