"""`orpo schema`: the JSON Schema of a recipe."""

from __future__ import annotations

import json

from orpo_cli.atomic import atomic_write_text
from orpo_cli.cli.options import OutputFile
from orpo_cli.recipe.schema.json_schema import recipe_schema
from orpo_cli.report.console import Console
from orpo_cli.workflows.output_file import check_output_file


def command(
    output: OutputFile = None,
) -> None:
    """Print the JSON Schema (draft 2020-12) of a recipe, for editors.

    Editors use it to complete, explain and check keys.

    An editor with yaml-language-server finds the schema through this line in
    the recipe:

      # yaml-language-server: $schema=recipe.schema.json

    [bold]Examples[/bold]

      orpo schema --output recipe.schema.json
      orpo schema | jq '.properties | keys'
    """
    text = schema_text()
    if output is None:
        Console().result(text.rstrip("\n"))
        return
    check_output_file(output, overwrite=True)
    atomic_write_text(output, text)
    Console().note(f"wrote {output}")


def schema_text() -> str:
    """The schema as text: the content of recipe.schema.json next to the shipped recipes."""
    return json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"
