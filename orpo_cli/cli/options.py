"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orpo_cli.cli.completion import complete_override, complete_recipe, complete_run_or_model

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        autocompletion=complete_override,
        help="Change one value of the recipe; repeatable. VALUE is YAML.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else, on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings, errors and the result.")]
Strict = Annotated[bool, typer.Option("--strict", help="Treat warnings as errors.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]
OutputFile = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="File to write; default: standard output.")
]
RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        autocompletion=complete_recipe,
        help="Recipe file, name of a shipped recipe, or - for standard input.",
    ),
]
RunOrModel = Annotated[
    str,
    typer.Argument(
        metavar="RUN_OR_MODEL",
        autocompletion=complete_run_or_model,
        help="Run directory (or the path that `orpo train` prints), model folder, .gguf file or hub id.",
    ),
]
ChatTemplate = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="As model.chat_template in a recipe; only for a model that is not a run."),
]

# Generation: `orpo generate` and `orpo chat`.
Compare = Annotated[bool, typer.Option("--compare", help="Compare base and tuned model of a run.")]
System = Annotated[str | None, typer.Option(metavar="TEXT", help="System message.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, metavar="N", help="Maximum length of an answer, in tokens.")]
Temperature = Annotated[
    float, typer.Option(min=0.0, help="0: take the most likely token each time (greedy). Above 0: sample.")
]
TopP = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, help="Sample from the most likely tokens, up to this total probability."),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of the sampling, to repeat it.")]
