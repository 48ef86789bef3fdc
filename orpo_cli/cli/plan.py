"""``orpo plan``: every decided value and its reason."""

from __future__ import annotations

from rich.text import Text

from orpo_cli.cli.options import Json, Overrides, Quiet, RecipeArgument, Strict
from orpo_cli.cli.road import planned
from orpo_cli.report.console import Console
from orpo_cli.report.plan_view import plan_lines, plan_table


def command(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    strict: Strict = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show every value a run would obey, and why; downloads no weights.

    [bold]Examples[/bold]

      orpo plan my.yaml
      orpo plan my.yaml --set training.max_steps=20 --json
    """
    console = Console(quiet=quiet, as_json=as_json)
    plan = planned(recipe, overrides, console, strict=strict)
    document = plan.as_document()
    if console.out.is_terminal:
        console.result(plan_table(document))
    else:
        for path, value, _, reason in plan_lines(document):
            console.result(Text(f"{path} = {value}  # {reason}"))
    console.document(document)
