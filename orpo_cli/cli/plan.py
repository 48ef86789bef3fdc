"""`orpo plan`: what a recipe would train, in which memory and time; with --all every value with its reason."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import typer
from rich.text import Text

from orpo_cli.cli.options import Json, Overrides, Quiet, RecipeArgument, Strict
from orpo_cli.control_characters import one_line
from orpo_cli.planning.decisions import with_origins
from orpo_cli.report.console import Console
from orpo_cli.report.estimate_view import estimate_document, estimate_lines
from orpo_cli.report.plan_screen import print_plan
from orpo_cli.report.plan_view import plan_lines, plan_table
from orpo_cli.report.progress import show_status
from orpo_cli.workflows.estimate import count_rows
from orpo_cli.workflows.plan import build_plan, load_recipe_reporting


def command(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    every_value: Annotated[bool, typer.Option("--all", help="Show every value with its reason.")] = False,
    show_origin: Annotated[
        bool,
        typer.Option("--show-origin", help="Show where each value comes from: file and line, --set, environment."),
    ] = False,
    gpu_memory: Annotated[
        float | None,
        typer.Option(
            "--gpu-memory", min=1, metavar="GB", help="Plan for a machine with GPUs of this memory, such as 24."
        ),
    ] = None,
    strict: Strict = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a recipe would train, in which memory and time, and the decisions that matter most.

    Downloads no weights. --all shows every value with its reason, and for
    several processes (launch.num_processes) compares DDP, FSDP and
    DeepSpeed's ZeRO: memory of a device and of the host, and bytes sent in
    a step. --gpu-memory plans for a GPU that this machine does not have; more
    processes than GPUs are planned for GPUs of 80 GB.

    [bold]Examples[/bold]

      orpo plan my.yaml
      orpo plan my.yaml --all
      orpo plan my.yaml --gpu-memory 24
      orpo plan my.yaml --set training.max_steps=20 --json
      orpo plan my.yaml --show-origin
      orpo plan my.yaml --all --set launch.num_processes=4
    """
    console = Console(quiet=quiet, as_json=as_json)
    loaded = load_recipe_reporting(recipe, overrides, console, strict=strict)
    result = build_plan(loaded, console, to_train=False, strict=strict, gpu_memory=gpu_memory)
    plan, inputs = result.plan, result.estimate_inputs
    every_value = every_value or show_origin
    with show_status(console) as status:
        status("estimating memory and time")
        compare = every_value or as_json
        rows = count_rows(plan)
        estimate = None if inputs is None else estimate_document(plan, inputs, rows, compare=compare)
    if not every_value:
        where = f"every value with its reason: orpo plan {shlex.quote(recipe)} --all"
        print_plan(plan, inputs, estimate, rows, console, every_value=where)
    document = plan.to_document()
    if show_origin:
        document = with_origins(document, loaded)
    if every_value:
        _print_all(document, estimate, console, origins=show_origin)
    console.document({**document, "estimate": estimate, "problems": [*loaded.warnings, *result.warnings]})


def _print_all(document: dict[str, Any], estimate: dict[str, Any] | None, console: Console, *, origins: bool) -> None:
    if console.out.is_terminal:
        console.result(plan_table(document, origins=origins))
    else:
        for path, value, _, reason in plan_lines(document):
            console.result(Text(one_line(f"{path} = {value}  # {reason}")))
    if estimate is not None:
        console.result(Text("\n".join(["", *estimate_lines(estimate)])))
