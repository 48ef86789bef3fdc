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
    adapter: Annotated[
        list[Path] | None,
        typer.Option("--adapter", metavar="RUN_OR_ADAPTER", help="A further adapter of the same base; repeatable."),
    ] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(
            "--weight",
            metavar="W",
            help="What an adapter's update is multiplied by: one for RUN_OR_ADAPTER, then one for each --adapter. Default: 1.",
        ),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(
            metavar="trained|original",
            help="For a quantized base: as it was trained, dequantized (default), or as it was before.",
        ),
    ] = None,
    held_out: Annotated[
        int,
        typer.Option(
            "--held-out", min=0, metavar="N", help="Compare loss and accuracy on this many held-out pairs of the run."
        ),
    ] = 32,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory that may be used; default: 1.5 times the base's largest file and 1 GB. With more, larger models are "
            "compared as a whole.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another merge at the same place.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Merge LoRA adapters into their base, and verify the result.

    Weights are merged one by one, so the model need not fit into the memory.
    Every tensor is read back from disk; where the memory allows it, the stored
    model is loaded and its logits are compared with those of the adapter on its
    base, short answers must end, and held-out pairs are judged. The folder
    appears when it has passed, with the verdict in merge.json. A base that was
    quantized in training is dequantized first; nothing is merged into quantized
    weights.

    [bold]Examples[/bold]

      orpo merge runs/quickstart
      orpo merge runs/llama3-8b-qlora --dtype bfloat16 -o models/mine
      orpo merge some-adapter -o models/mine --base meta-llama/Meta-Llama-3-8B
      orpo merge runs/a --adapter runs/b --weight 0.7 --weight 0.3 -o models/both
    """
    from orpo_cli.merge.merge import merge
    from orpo_cli.report.progress_counter import counting

    console = Console(quiet=quiet, as_json=as_json)
    with counting(console) as count:
        result = merge(
            target,
            output,
            base=base,
            dtype=dtype,
            max_shard_size=max_shard_size,
            into=into,
            others=adapter or (),
            weights=weight or (),
            memory=memory,
            held_out_pairs=held_out,
            overwrite=overwrite,
            note=console.note,
            progress=count("tensors"),
        )
    for line in result.lines():
        console.note(line)
    if (first := result.record.first_verification) is not None and not result.already:
        console.warn(
            f"a first verification failed, and a second one, computed anew, passed. The first: {first['problem']}"
        )
    if result.ends_worse() and not result.already:
        console.warn("fewer short answers end by themselves than before the merge: try --dtype float32.")
    console.result(str(result.output))
    console.document(result.as_dict())
