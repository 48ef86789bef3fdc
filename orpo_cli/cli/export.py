"""`orpo export`: a trained model as safetensors, GGUF or bitsandbytes files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.filesize import decimal

from orpo_cli.cli.choices import ExportFormatChoice, GgufTypeChoice
from orpo_cli.cli.completion import complete_run_or_model
from orpo_cli.cli.options import Json, Quiet
from orpo_cli.recipe.schema import Dtype
from orpo_cli.report.console import Console
from orpo_cli.workflows.remote_code import warn_about_remote_code


def command(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_MODEL",
            autocompletion=complete_run_or_model,
            help="Run directory, or folder of a full model.",
        ),
    ],
    formats: Annotated[
        list[ExportFormatChoice] | None,
        typer.Option("--format", help="Format to write; repeatable; default: export.formats of the recipe."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder to write; with several formats, a subfolder for each; default: RUN/export/FORMAT.",
        ),
    ] = None,
    dtype: Annotated[
        Literal["auto", Dtype] | None,
        typer.Option(help="Type of the weights; default: export.dtype. auto: as merged. Not for GGUF."),
    ] = None,
    max_shard_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Maximum size of a weights file, such as 5GB. Not for GGUF.")
    ] = None,
    gguf_types: Annotated[
        list[GgufTypeChoice] | None,
        typer.Option(
            "--gguf-type", help="Tensor type of a GGUF file; repeatable; default: export.gguf_types, else f16."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another export in the same folder.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a trained model as safetensors, GGUF or a bitsandbytes checkpoint.

    The adapter of a run is merged first, unless `orpo merge` has already done
    it. Every export is loaded again, compared with the model, and checked for
    common causes of failure in other programs: end-of-sequence tokens, chat
    template, tokenizer. The list of checks is written to export.json. GGUF
    files are written by the converter of llama.cpp, which pip installs on first
    use; a Modelfile for Ollama is written next to them.

    [bold]Examples[/bold]

      orpo export runs/quickstart
      orpo export runs/quickstart --format gguf --gguf-type f16 --gguf-type q8_0
      orpo export models/mine --format bnb-4bit -o models/mine-4bit
    """
    from orpo_cli.exporting.export import export
    from orpo_cli.exporting.export_request import ExportRequest
    from orpo_cli.exporting.gguf.gguf_export import LLAMA_CPP

    console = Console(quiet=quiet, as_json=as_json)
    warn_about_remote_code(target, console)
    exported = export(
        ExportRequest(
            target,
            output,
            formats=[each.value for each in formats or []],
            dtype=dtype,
            max_shard_size=max_shard_size,
            gguf_types=[each.value for each in gguf_types or []],
            overwrite=overwrite,
        ),
        note=console.note,
    )
    for each in exported:
        size = decimal(sum(file["size"] for file in each.record.files.values()))
        if not each.record.verified:
            console.warn(f"{each.format}: no library here reads its weights, so they were not compared with the model")
        if each.record.first_checklist and not each.already_exported:
            console.warn(f"{each.format}: the first comparison failed and its repetition passed; see export.json")
        status = "already exported" if each.already_exported else "exported"
        console.note(f"{each.format}: {status}{' and verified' * each.record.verified}, {size}")
        if each.already_exported and any(
            item["name"].endswith(LLAMA_CPP) and item["passed"] is None for item in each.record.checklist
        ):
            console.note(
                f"{each.format}: it was not checked in llama.cpp, which was not installed: --overwrite exports and checks it again"
            )
        console.result(str(each.output))
    unchanged = all(each.already_exported for each in exported)
    console.document({"status": "unchanged" if unchanged else "exported", "exports": exported})
