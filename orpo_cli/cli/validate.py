"""`orpo validate`: check recipes without importing torch."""

from __future__ import annotations

from typing import Annotated

import typer

from orpo_cli.cli.completion import complete_recipe
from orpo_cli.cli.options import Json, Overrides, Quiet, Strict
from orpo_cli.errors import STRICT, OrpoError, Problem, RecipeError
from orpo_cli.recipe.placeholders import load_complete_recipe
from orpo_cli.report.console import Console
from orpo_cli.workflows.missing_files import missing_file_notes


def command(
    recipes: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE...",
            autocompletion=complete_recipe,
            help="Recipe files, names of shipped recipes, or - for standard input.",
        ),
    ],
    overrides: Overrides = None,
    strict: Strict = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check recipes, and report every error with its line.

    Reads only the recipes: no torch, no network, no data. A local model or data
    file that does not exist here is mentioned, and is no error.

    [bold]Examples[/bold]

      orpo validate my.yaml
      orpo validate recipes/paper/*.yaml --json
      orpo validate my.yaml --set training.beta=0.2
      orpo validate my.yaml --strict
    """
    console = Console(quiet=quiet, as_json=as_json)
    problems: list[Problem] = []
    notes: list[str] = []
    for source in recipes:
        try:
            loaded = load_complete_recipe(source, overrides or (), strict=strict)
        except RecipeError as error:
            problems += error.problems
        except OrpoError as error:
            problems.append(Problem("recipe-unreadable", error.message, remedy=error.remedy))
        else:
            problems += loaded.warnings
            notes += missing_file_notes(loaded)
            console.result(f"{loaded.file}: ok")
    for note in notes:
        console.note(f"note: {note}")
    console.problems(problems)
    warnings = sum(problem.severity == "warning" for problem in problems)
    errors = len(problems) - warnings
    failed = errors > 0 or (strict and warnings > 0)
    if problems:
        summary = f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"
        if failed and not errors:
            summary += f": {STRICT}"
        console.print_line(summary, style="red" if failed else None)
    console.document({"status": "error" if failed else "ok", "files": recipes, "problems": problems, "notes": notes})
    if failed:
        raise typer.Exit(2)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
