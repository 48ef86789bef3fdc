"""`orpo explain`: print why a problem code exists, an example, and how to repair it."""

from __future__ import annotations

from typing import Annotated

import typer

from orpo_cli.cli.completion import complete_code
from orpo_cli.cli.options import Json
from orpo_cli.recipe.explanations import problem_codes, read_explanation
from orpo_cli.report.console import Console


def command(
    code: Annotated[
        str | None,
        typer.Argument(
            metavar="CODE",
            autocompletion=complete_code,
            help="The code at the end of a message; without it, list all codes.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Explain a problem code.

    Prints why the rule exists, a recipe that breaks it, and the repaired recipe.
    Messages about a recipe, a plan or a running training end with the code in brackets.

    [bold]Examples[/bold]

      orpo explain bf16-and-fp16
      orpo explain
      orpo explain unknown-key --json
    """
    console = Console(as_json=as_json)
    if code is not None:
        explanation = read_explanation(code)
        console.result(explanation.text())
        console.document(explanation)
        return
    summaries = {each: read_explanation(each).summary for each in problem_codes()}
    width = max(map(len, summaries))
    console.result("\n".join(f"{each:{width}}  {summary}" for each, summary in summaries.items()))
    console.document({"codes": [{"code": each, "summary": summary} for each, summary in summaries.items()]})
