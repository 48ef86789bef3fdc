"""``orpo train``: the main job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orpo_cli.cli.options import Json, Overrides, Quiet, RecipeArgument, Strict
from orpo_cli.errors import UsageError
from orpo_cli.report.console import Console
from orpo_cli.rundir import FINISHED
from orpo_cli.workflows.plan import build_plan, load_recipe_reporting
from orpo_cli.workflows.train import open_run, run_document, train_plan

if TYPE_CHECKING:
    pass


def command(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    resume: Annotated[
        str,
        typer.Option(
            metavar="auto|never|PATH", help="Go on with the run in output_dir: from its last checkpoint, or from PATH."
        ),
    ] = "never",
    smoke: Annotated[
        bool,
        typer.Option("--smoke", help="Try the whole road on a shrunken random model, two steps, and leave nothing."),
    ] = False,
    strict: Strict = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a model on preference pairs as the recipe says.

    Leaves a run directory: plan, data report, metrics, checkpoints, and the adapter (or model). Ctrl-C saves a
    checkpoint and exits 130.

    [bold]Examples[/bold]

      orpo train my.yaml
      orpo train my.yaml --set training.learning_rate=5e-5 --set output_dir=runs/lr5e-5
      orpo train my.yaml --resume auto
      orpo train my.yaml --smoke
    """
    console = Console(quiet=quiet, as_json=as_json)
    loaded = load_recipe_reporting(recipe, overrides, console, strict=strict)
    if smoke and resume != "never":
        raise UsageError("--resume would do nothing beside --smoke: a smoke run leaves nothing to resume.")
    plan = build_plan(loaded, console, to_train=not smoke, strict=strict).plan
    if smoke:
        from orpo_cli.workflows.smoke import smoke as try_out

        return try_out(loaded, plan, console)
    rundir, checkpoint = open_run(loaded, plan, resume, console)
    if rundir.read_run()["status"] == FINISHED:
        console.note(f"{rundir.root}: this run has finished; there is nothing to resume")
        console.result(str(rundir.result()))
        console.document(run_document(rundir))
        return
    outcome = train_plan(plan, rundir, checkpoint, console)
    minutes, seconds = divmod(round(outcome.seconds), 60)
    console.note(f"trained {outcome.steps} steps in {minutes} min {seconds} s")
    console.result(str(outcome.result))
    console.document(run_document(rundir))
