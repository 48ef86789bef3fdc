"""``orpo convert``: another tool's configuration as a recipe."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from orpo_cli.atomic import atomic_write_text
from orpo_cli.cli.options import Json, Quiet
from orpo_cli.errors import UsageError
from orpo_cli.recipe.convert.config_reader import TOOLS
from orpo_cli.recipe.convert.convert import Conversion, convert
from orpo_cli.recipe.convert.draft import KeyOutcome, Outcome
from orpo_cli.recipe.source.nodes import format_path
from orpo_cli.report.console import Console

FATES: dict[Outcome, str] = {
    "kept": "kept",
    "ignored": "ignored by {tool} itself",
    "left-out": "left out",
    "unknown": "unknown to {tool}",
    "empty": "empty or off",
}


def command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Another tool's configuration, or - for standard input.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: standard output.")
    ] = None,
    wanted: Annotated[
        str, typer.Option("--from", metavar="TOOL", help=f"auto, or whose it is: {', '.join(TOOLS)}.")
    ] = "auto",
    model: Annotated[
        str | None, typer.Option(metavar="ID", help="The base model, where FILE names none or another.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="PATH", help="The preference pairs, where FILE names none or others.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn a configuration of axolotl, LLaMA-Factory, alignment-handbook, TRL or ms-swift into a recipe, or a printed ORPOConfig.

    What has an equal here is kept; everything else stands in the recipe as a comment, with the reason. The recipe validates.

    [bold]Examples[/bold]

      orpo convert mistral-qlora-orpo.yml -o mistral.yaml
      orpo convert qwen_lora_orpo.yaml | orpo plan -
      orpo convert printed.txt --model mistralai/Mistral-7B-v0.1 --dataset pairs.jsonl
      orpo convert train.sh --json
    """
    console = Console(quiet=quiet, as_json=as_json)
    if wanted not in ("auto", *TOOLS):
        raise UsageError(f"--from {wanted}: no such tool.", remedy=f"There are: auto, {', '.join(TOOLS)}.")
    for option, value in (("--model", model), ("--dataset", dataset)):
        if value is not None and not value.strip():
            raise UsageError(f"{option} is empty.", remedy="Give a value or leave the option out.")
    if force and output is None:
        raise UsageError("--force would do nothing without --output.", remedy="Leave it out.")
    if output is not None:
        _refuse_to_overwrite(output, force)
    name = "standard input" if file == "-" else Path(file).name
    folders = [Path.cwd()] if file == "-" else [Path(file).parent, Path.cwd()]
    done = convert(_text(file), name, wanted=wanted, model=model, dataset=dataset, folders=folders)
    _say(console, done, file)
    if output is not None:
        atomic_write_text(output, done.text)
        console.result(f"wrote {output}")
    elif not as_json:
        sys.stdout.flush()
        sys.stdout.buffer.write(done.text.encode())  # not through rich: the text exactly
    console.document(_document(done, output))


def _text(file: str) -> str:
    if file == "-":
        return sys.stdin.read()
    try:
        return Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8 text (byte {error.start}).") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from None


def _refuse_to_overwrite(target: Path, force: bool) -> None:
    if target.is_dir() or not target.parent.is_dir():
        raise UsageError(f"{target} cannot be written: {'it is a' if target.is_dir() else 'there is no such'} folder.")
    if target.exists() and not force:
        raise UsageError(f"{target} exists already.", remedy="Choose another --output, or add --force.")


def _say(console: Console, done: Conversion, file: str) -> None:
    """On standard error: how many keys went where, and each that is not simply kept."""
    counts = Counter(fate.outcome for fate in done.fates)
    parts = [f"{counts[fate]} {words.format(tool=done.tool)}" for fate, words in FATES.items() if counts[fate]]
    console.note(f"{done.tool}: {len(done.fates)} keys: {', '.join(parts)}.")
    for remark in done.remarks:
        console.note(f"  {remark}")
    for fate in done.fates:
        if fate.outcome in ("ignored", "left-out", "unknown"):
            console.note(f"  {_line(fate, done.tool, file)}")
    for path in done.todo:
        option = (
            ", or use --model" if path.startswith("model.") else ", or use --dataset" * path.startswith("dataset.train")
        )
        console.warn(f"{path} is a placeholder: {file} does not say it. Fill it in{option}.")


def _line(fate: KeyOutcome, tool: str, file: str) -> str:
    place = f"{file}:{fate.line}: " if fate.line else ""
    return f"{place}{fate.key}: {FATES[fate.outcome].format(tool=tool)}" + (f". {fate.note}" if fate.note else ".")


def _document(done: Conversion, output: Path | None) -> dict[str, Any]:
    return {
        "status": "ok",
        "from": done.tool,
        "path": None if output is None else str(output),
        "recipe": done.text,
        "values": done.values,
        "keys": [
            {
                "key": fate.key,
                "value": fate.value,
                "line": fate.line,
                "fate": fate.outcome,
                "path": None if fate.path is None else format_path(fate.path),
                "note": fate.note,
            }
            for fate in done.fates
        ],
        "todo": list(done.todo),
        "remarks": list(done.remarks),
    }
