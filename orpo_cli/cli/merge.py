"""`orpo merge`: merge LoRA adapters into their base model, and verify the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from orpo_cli.cli.completion import complete_run
from orpo_cli.cli.options import Json, Quiet
from orpo_cli.merging.merge_target import Into
from orpo_cli.recipe.schema import Dtype
from orpo_cli.report.console import Console
from orpo_cli.workflows.remote_code import warn_about_remote_code


def command(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_ADAPTER",
            autocompletion=complete_run,
            help="Run directory, checkpoint of a run, or PEFT adapter folder.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder to write; default: RUN/merged.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Base model of the adapter: hub id, folder or .gguf file; default: the one that the adapter names.",
        ),
    ] = None,
    dtype: Annotated[
        Literal["auto", Dtype] | None,
        typer.Option(help="Type of the merged weights; default: merge.dtype. auto: as trained."),
    ] = None,
    max_shard_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Maximum size of a weights file, such as 5GB; default: merge.max_shard_size."
        ),
    ] = None,
    adapter: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN_OR_ADAPTER", help="Another adapter of the same base; repeatable."),
    ] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(
            metavar="W",
            help="Factor of an adapter's update: one for RUN_OR_ADAPTER, then one for each --adapter. Default: 1.",
        ),
    ] = None,
    into: Annotated[
        Into | None,
        typer.Option(
            help="If the base was quantized in training: merge into its dequantized weights (trained, the default) or "
            "into the original ones."
        ),
    ] = None,
    held_out: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Compare NLL and accuracy on this many held-out pairs of the run; fewer are faster, 0 skips them.",
        ),
    ] = 32,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory to use at most, such as 8GB; default: the free memory of the machine or container. A model that "
            "fits is loaded to compare its logits.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another merge in the same folder.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Merge LoRA adapters into their base model, and verify the result.

    Weights are merged one by one, so the model need not fit into memory. Every
    tensor is read back from disk. If memory allows it, the merged model is
    loaded and compared with the adapter on its base: logits, short answers
    (they must end), held-out pairs. The folder appears only after these checks
    have passed; merge.json has their results. A base that was quantized in
    training is dequantized first: nothing is merged into quantized weights.

    [bold]Examples[/bold]

      orpo merge runs/quickstart
      orpo merge runs/llama3-8b-qlora --dtype bfloat16 -o models/mine
      orpo merge some-adapter -o models/mine --base meta-llama/Meta-Llama-3-8B
      orpo merge runs/a --adapter runs/b --weight 0.7 --weight 0.3 -o models/both
    """
    from orpo_cli.merging.merge import merge
    from orpo_cli.merging.merge_target import MergeRequest
    from orpo_cli.report.progress import show_progress

    console = Console(quiet=quiet, as_json=as_json)
    warn_about_remote_code(target, console)
    with show_progress(console) as begin_count:
        result = merge(
            MergeRequest(
                target,
                output,
                base=base,
                dtype=dtype,
                max_shard_size=max_shard_size,
                into=into,
                adapters=adapter or (),
                weights=weight or (),
                memory=memory,
                held_out_pairs=held_out,
                overwrite=overwrite,
            ),
            note=console.note,
            begin_count=begin_count,
        )
    for line in result.summary_lines():
        console.note(line)
    if (first := result.record.first_verification) is not None and not result.already_merged:
        console.warn(f"the first verification failed and its repetition passed. The first: {first['problem']}")
    if result.fewer_answers_end() and not result.already_merged:
        console.warn("fewer short answers end before the token limit than before the merge: try --dtype float32.")
    console.result(str(result.output))
    console.document(result)
