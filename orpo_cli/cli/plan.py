"""`orpo plan`: every decided value with its reason, and an estimate of memory and time per step."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from orpo_cli.cli.options import Json, Overrides, Quiet, RecipeArgument, Strict
from orpo_cli.control_characters import one_line
from orpo_cli.plan.decisions import with_origins
from orpo_cli.report.console import Console
from orpo_cli.report.estimate_view import estimate_document, estimate_lines
from orpo_cli.report.plan_view import plan_lines, plan_table
from orpo_cli.workflows.plan import build_plan, load_recipe_reporting


def command(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    show_origin: Annotated[
        bool,
        typer.Option("--show-origin", help="Show where each value comes from: file and line, --set, environment."),
    ] = False,
    strict: Strict = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show every value of a run with its reason, and estimate memory and time per step.

    Downloads no weights. For several processes (launch.num_processes), it
    compares DDP, FSDP and DeepSpeed's ZeRO: memory of a device and of the
    host, and bytes sent in a step. GPUs that this machine does not have are
    assumed to have 80 GB.

    [bold]Examples[/bold]

      orpo plan my.yaml
      orpo plan my.yaml --set training.max_steps=20 --json
      orpo plan my.yaml --show-origin
      orpo plan my.yaml --set launch.num_processes=4
    """
    console = Console(quiet=quiet, as_json=as_json)
    loaded = load_recipe_reporting(recipe, overrides, console, strict=strict)
    plan, _, warnings, sizing = build_plan(loaded, console, to_train=False, strict=strict)
    document = plan.to_document()
    if show_origin:
        document = with_origins(document, loaded)
    if console.out.is_terminal:
        console.result(plan_table(document, origins=show_origin))
    else:
        for path, value, _, reason in plan_lines(document):
            console.result(Text(one_line(f"{path} = {value}  # {reason}")))
    estimate = estimate_document(plan, sizing) if sizing is not None else None
    if estimate is not None:
        console.result(Text("\n".join(["", *estimate_lines(estimate)])))
    console.document({**document, "estimate": estimate, "problems": [*loaded.warnings, *warnings]})
