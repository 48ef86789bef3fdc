"""`orpo recipes`: list the shipped recipes, or print one."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from orpo_cli.cli.completion import complete_shipped
from orpo_cli.cli.options import Json
from orpo_cli.errors import UsageError
from orpo_cli.recipe.source.shipped_recipes import shipped_recipe, shipped_recipes
from orpo_cli.report.console import Console


class _RecipesGroup(TyperGroup):
    """The commands below `orpo recipes`, where `orpo recipes NAME` is `orpo recipes show NAME`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["show", *args])

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        (name,) = (each for each in self.commands["show"].params if each.name == "name")
        return [*super().shell_complete(ctx, incomplete), *name.shell_complete(ctx, incomplete)]


app = typer.Typer(rich_markup_mode="rich", cls=_RecipesGroup)


@app.callback(invoke_without_command=True)
def command(context: typer.Context, as_json: Json = False) -> None:
    """List the shipped recipes, or print one.

    Every command that takes a recipe also takes the name of a shipped one:
    orpo plan quickstart.

    [bold]Examples[/bold]

      orpo recipes
      orpo recipes quickstart
      orpo recipes show quickstart > mine.yaml
      orpo recipes --json
    """
    if context.invoked_subcommand is not None:
        if as_json:
            raise UsageError("--json does nothing here.", remedy="Leave it out: a recipe is printed as YAML.")
        return
    console = Console(as_json=as_json)
    recipes = shipped_recipes()
    width = max((len(recipe.name) for recipe in recipes), default=0)
    console.result(
        Text("\n").join(Text.assemble((f"{each.name:{width}}", "bold"), "  ", each.summary) for each in recipes)
    )
    if not as_json:
        console.note("`orpo recipes NAME` prints one, and `orpo init MINE --from NAME` copies it with its data.")
    console.document({"recipes": recipes})


@app.command()
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            autocompletion=complete_shipped,
            help="Name of a shipped recipe; `orpo recipes` lists them.",
        ),
    ],
) -> None:
    """Print a shipped recipe.

    orpo recipes NAME does the same.

    [bold]Examples[/bold]

      orpo recipes show quickstart
      orpo recipes show llama3-8b-qlora > mine.yaml
    """
    Console().exact(shipped_recipe(name).text_to_copy())
