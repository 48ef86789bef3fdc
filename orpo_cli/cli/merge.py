"""``orpo merge``: an adapter into its base, verified."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orpo_cli.cli.options import Json, Quiet
from orpo_cli.report.console import Console


def command(
    target: Annotated[
        Path,
        typer.Argument(metavar="RUN_OR_ADAPTER", help="Run directory, checkpoint of a run, or PEFT adapter folder."),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Where the model goes; default: RUN/merged.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="The adapter's base: hub id, folder or .gguf; default: what the adapter names."
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="DTYPE", help="float32, bfloat16 or float16; default: merge.dtype, else as trained."),
    ] = None,
    max_shard_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Largest file of weights, such as 5GB; default: the plan's.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another merge at the same place.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Merge a LoRA adapter into its base, and verify the result.

    The merged model is read back from disk and its logits are compared with
    those of the adapter on its base. It appears when it has passed, with the
    verdict in merge.json. A base that was quantized in training is dequantized
    first; nothing is merged into quantized weights.

    [bold]Examples[/bold]

      orpo merge runs/quickstart
      orpo merge runs/llama3-8b-qlora --dtype bfloat16 -o models/mine
      orpo merge some-adapter -o models/mine --base meta-llama/Meta-Llama-3-8B
    """
    from orpo_cli.artifacts.merge import merge

    console = Console(quiet=quiet, as_json=as_json)
    result = merge(
        target,
        output,
        base=base,
        dtype=dtype,
        max_shard_size=max_shard_size,
        overwrite=overwrite,
        note=console.note,
    )
    found = f"logits within {result.record.max_logit_difference:.2g} of the adapter on its base"
    if result.already:
        console.note(f"already merged and verified: {found}")
    else:
        console.note(f"merged in {result.seconds:.0f} s and verified: {found}")
    console.result(str(result.output))
    console.document(result.as_dict())
