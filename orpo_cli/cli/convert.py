"""`orpo convert`: another tool's configuration as a recipe."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import typer

from orpo_cli.atomic import atomic_write_text
from orpo_cli.cli.options import Force, Json, OutputFile, Quiet
from orpo_cli.errors import UsageError
from orpo_cli.nearest_path import near_path_remedy
from orpo_cli.recipe.convert.config_reader import Tool
from orpo_cli.recipe.convert.convert import Conversion, convert
from orpo_cli.recipe.convert.draft import Outcome
from orpo_cli.recipe.source.nodes import format_path
from orpo_cli.report.console import Console
from orpo_cli.workflows.output_file import check_output_file

OUTCOMES: dict[Outcome, str] = {
    "kept": "kept",
    "ignored": "ignored by {tool} itself",
    "left-out": "left out",
    "unknown": "unknown to {tool}",
    "empty": "empty or off",
}


def command(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Configuration of another tool, or - for standard input.")
    ],
    output: OutputFile = None,
    tool: Annotated[
        Literal["auto", Tool], typer.Option("--from", help="Tool of the configuration; auto recognizes it.")
    ] = "auto",
    model: Annotated[
        str | None, typer.Option(metavar="ID", help="Base model, if FILE names none or you want another.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="PATH", help="Preference pairs, if FILE names none or you want others.")
    ] = None,
    accelerate_config: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Configuration of accelerate that launches FILE: its settings become launch."
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert another tool's configuration into a recipe.

    Reads configurations and training commands of axolotl, LLaMA-Factory,
    alignment-handbook, TRL, ms-swift, AutoTrain and mlx-lm-lora, a printed
    ORPOConfig, and configurations of accelerate and DeepSpeed, alone or as
    the others refer to them. Keys that have an
    equivalent are kept; every other key becomes a comment in the recipe, with
    the reason. The recipe validates.

    [bold]Examples[/bold]

      orpo convert mistral-qlora-orpo.yml -o mistral.yaml
      orpo convert qwen_lora_orpo.yaml | orpo plan -
      orpo convert printed.txt --model facebook/opt-1.3b --dataset pairs.jsonl
      orpo convert train.yaml --accelerate-config fsdp.yaml -o full.yaml
      orpo convert train.sh --json
    """
    console = Console(quiet=quiet, as_json=as_json)
    for option, value in (
        ("--model", model), ("--dataset", dataset), ("--accelerate-config", accelerate_config)
    ):  # fmt: skip
        if value is not None and not value.strip():
            raise UsageError(f"{option} is empty.", remedy="Give a value or leave the option out.")
    if force and output is None:
        raise UsageError("--force does nothing without --output.", remedy="Leave it out.")
    if output is not None:
        check_output_file(output, overwrite=force)
    text, name, folder = _read_source(file)
    if accelerate_config is not None and not Path(accelerate_config).is_file():
        raise UsageError(f"--accelerate-config {accelerate_config}: there is no such file.", remedy="Correct the path.")
    conversion = convert(
        text, name, tool=tool, model=model, dataset=dataset, folders=[folder, Path.cwd()],
        accelerate_config=accelerate_config,
    )  # fmt: skip
    _print_outcomes(console, conversion, file)
    if output is not None:
        atomic_write_text(output, conversion.text)
        console.result(f"wrote {output}")
    elif not as_json:
        console.exact(conversion.text)
    console.document(
        {
            "status": "ok",
            "from": conversion.tool,
            "path": output,
            "recipe": conversion.text,
            "values": conversion.values,
            "keys": [
                {
                    "key": key.key,
                    "value": key.value,
                    "line": key.line,
                    "outcome": key.outcome,
                    "path": None if key.path is None else format_path(key.path),
                    "note": key.note,
                }
                for key in conversion.outcomes
            ],
            "todo": list(conversion.placeholders),
            "remarks": conversion.remarks,
        }
    )


def _read_source(file: str) -> tuple[str, str, Path]:
    """The text of ``file`` (- for standard input), its name in the recipe, and its folder."""
    if file == "-":
        return sys.stdin.read(), "standard input", Path.cwd()
    path = Path(file)
    try:
        return path.read_text(encoding="utf-8"), path.name, path.parent
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8 text (byte {error.start}).") from None
    except OSError as error:
        remedy = near_path_remedy(path, "Correct the path.", Path.is_file)
        raise UsageError(f"{file} cannot be read: {error.strerror}.", remedy=remedy) from None


def _print_outcomes(console: Console, conversion: Conversion, file: str) -> None:
    """Print on standard error how many keys have which outcome, each key that is not kept, and each placeholder."""
    counts = Counter(key.outcome for key in conversion.outcomes)
    parts = [f"{counts[each]} {text.format(tool=conversion.tool)}" for each, text in OUTCOMES.items() if counts[each]]
    console.note(f"{conversion.tool}: {len(conversion.outcomes)} keys: {', '.join(parts)}.")
    for remark in conversion.remarks:
        console.note(f"  {remark}")
    for key in conversion.outcomes:
        if key.outcome in ("ignored", "left-out", "unknown"):
            position = f"{file}:{key.line}: " if key.line else ""
            outcome = OUTCOMES[key.outcome].format(tool=conversion.tool)
            console.note(f"  {position}{key.key}: {outcome}. {key.note or ''}".rstrip())
    for path, reason in conversion.placeholders.items():
        option = (
            ", or use --model" if path.startswith("model.") else ", or use --dataset" * path.startswith("dataset.train")
        )
        console.warn(f"{path} is a placeholder: {reason}{'' if reason.endswith('?') else '.'} Fill it in{option}.")
