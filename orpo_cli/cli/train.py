"""`orpo train`: train a model as a recipe configures it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from orpo_cli.cli.completion import complete_resume
from orpo_cli.cli.options import Json, Overrides, Quiet, RecipeArgument, Strict
from orpo_cli.errors import UsageError
from orpo_cli.launch.environment import Ranks
from orpo_cli.launch.watch import stop_with_parent
from orpo_cli.report.console import Console
from orpo_cli.training.resume import Input
from orpo_cli.workflows.smoke import smoke_recipe
from orpo_cli.workflows.train import planned_commands, run_document, train_recipe
from orpo_cli.workflows.train_worker import joined_ranks, train_rank


def command(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    resume: Annotated[
        str,
        typer.Option(
            metavar="auto|never|PATH",
            autocompletion=complete_resume,
            help="Resume the run in output_dir: from its last checkpoint, or from PATH.",
        ),
    ] = "never",
    allow_changed: Annotated[
        list[Input] | None,
        typer.Option(help="Resume although this input has changed since the run was started; repeatable."),
    ] = None,
    smoke: Annotated[
        bool,
        typer.Option("--smoke", help="Run the full pipeline on a tiny random model for two steps, then delete it."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the command and the environment of the processes of each machine, and start nothing.",
        ),
    ] = False,
    sweep: Annotated[
        Path | None, typer.Option(hidden=True, help="Directory of the sweep that has started this.")
    ] = None,
    trial: Annotated[str | None, typer.Option(hidden=True, help="Name of the trial in the sweep.")] = None,
    parent: Annotated[int | None, typer.Option(hidden=True, help="Process of the sweep.")] = None,
    strict: Strict = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a model on preference pairs as the recipe configures it.

    Writes a run directory: plan, data report, metrics, checkpoints, and the
    adapter (or model). Ctrl-C saves a checkpoint and exits with 130.

    [bold]Examples[/bold]

      orpo train my.yaml
      orpo train my.yaml --set training.beta=0.2 --set output_dir=runs/beta0.2
      orpo train my.yaml --resume auto
      orpo train my.yaml --smoke
    """
    if smoke and resume != "never":
        raise UsageError(
            "--resume does nothing with --smoke: a smoke run keeps no checkpoint.", remedy="Leave one out."
        )
    if allow_changed and resume == "never":
        raise UsageError("--allow-changed does nothing without --resume.", remedy="Add --resume auto, or leave it out.")
    console = Console(quiet=quiet, as_json=as_json)
    ranks = Ranks.from_environment()
    if ranks is not None and (smoke or dry_run):
        raise UsageError(
            f"--smoke and --dry-run run in one process, and WORLD_SIZE is {ranks.world_size}.",
            remedy="Start it without torchrun or accelerate launch, or unset WORLD_SIZE.",
        )
    if dry_run:
        commands = planned_commands(recipe, overrides, console, strict=strict)
        console.result("\n".join(each.text() for each in commands))
        console.document({"machines": [vars(each) for each in commands]})
        return
    if smoke:
        smoke_run = smoke_recipe(recipe, overrides, console, strict=strict)
        replaced = ", ".join(each.partition(":")[0] for each in smoke_run["replaced"])
        run = f"smoke run passed, {smoke_run['steps']} steps in {smoke_run['seconds']:.0f} s"
        console.result(f"{smoke_run['name']}: {run}; replaced: {replaced}")
        console.document(smoke_run)
        return
    trial_of = None if sweep is None or trial is None else (str(sweep), trial)
    if trial_of is not None and ranks is None:
        stop_with_parent(parent)  # a killed sweep leaves no trial that trains on
    train = partial(
        train_recipe,
        recipe,
        overrides,
        console,
        resume=resume,
        strict=strict,
        allow_changed=allow_changed or (),
        sweep=trial_of,
    )
    if ranks is None:
        rundir = train()
    elif ranks.is_first and not ranks.launched:
        with joined_ranks(ranks) as rank:
            rundir = train(rank=rank)
    else:
        train_rank(ranks)
        return
    console.result(str(rundir.result()))
    console.document(run_document(rundir))
