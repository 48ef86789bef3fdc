"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one value of the recipe; repeatable, YAML values."),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output and nothing else there.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings, errors and the result.")]
Strict = Annotated[bool, typer.Option("--strict", help="Warnings are errors.")]
RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Recipe file, shipped name, or - for standard input.")
]
