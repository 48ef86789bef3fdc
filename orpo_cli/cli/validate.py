"""``orpo validate``: check recipes without loading anything heavy."""

from __future__ import annotations

from typing import Annotated

import typer

from orpo_cli.cli.options import Json, Overrides, Quiet
from orpo_cli.errors import OrpoError, Problem, RecipeError
from orpo_cli.recipe.load import load_recipe
from orpo_cli.report.console import Console


def command(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE...", help="Recipe files, shipped names, or -.")],
    overrides: Overrides = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check recipes; every error of every file at once, with line numbers.

    Reads only the recipes themselves: no torch, no network, no data.

    [bold]Examples[/bold]

      orpo validate my.yaml
      orpo validate recipes/*.yaml --json
      orpo validate my.yaml --set training.beta=0.2
    """
    console = Console(quiet=quiet, as_json=as_json)
    problems: list[Problem] = []
    for source in recipes:
        try:
            loaded = load_recipe(source, overrides or ())
        except RecipeError as error:
            problems += error.problems
        except OrpoError as error:
            problems.append(Problem("file", error.message, remedy=error.remedy))
        else:
            console.result(f"{loaded.file}: ok")
    for problem in problems:
        console.err.print(problem.text(), markup=False)
    if problems:
        count = len(problems)
        console.err.print(f"{count} error{'s' if count > 1 else ''}", style="red")
    console.document(
        {"status": "error" if problems else "ok", "files": recipes, "problems": [each.as_dict() for each in problems]}
    )
    if problems:
        raise typer.Exit(2)
