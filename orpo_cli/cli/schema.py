"""``orpo schema``: the JSON Schema of a recipe."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from orpo_cli.errors import UsageError
from orpo_cli.recipe.schema.json_schema import recipe_schema
from orpo_cli.report.console import Console


def command(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it to a file instead.")
    ] = None,
) -> None:
    """Print the JSON Schema (draft 2020-12) of a recipe, with which editors complete, explain and check every key.

    An editor with yaml-language-server takes the schema of a file from this line in it:

      # yaml-language-server: $schema=recipe.schema.json

    [bold]Examples[/bold]

      orpo schema --output recipe.schema.json
      orpo schema | jq '.properties | keys'
    """
    text = schema_text()
    if output is None:
        Console().result(text.rstrip("\n"))
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}.") from None
    print(f"wrote {output}", file=sys.stderr)


def schema_text() -> str:
    """The schema as the file that comes with the shipped recipes holds it."""
    return json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"
