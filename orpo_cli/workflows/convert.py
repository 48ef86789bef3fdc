"""Conversion workflow (`orpo convert`): read another tool's configuration, convert it, write the recipe."""

from __future__ import annotations

import sys
from pathlib import Path

from orpo_cli.atomic import atomic_write_text
from orpo_cli.errors import UsageError
from orpo_cli.recipe.convert.convert import Conversion, convert
from orpo_cli.workflows.output_file import check_output_file


def convert_file(
    file: str, output: Path | None, *, tool: str, model: str | None, dataset: str | None, overwrite: bool
) -> Conversion:
    """Convert the configuration in ``file`` (- for standard input), and write the recipe where ``output`` is given.

    ``tool``: the tool of the configuration, or auto. ``model`` and ``dataset`` replace those of the configuration. Raises
    UsageError and RecipeError.
    """
    for option, value in (("--model", model), ("--dataset", dataset)):
        if value is not None and not value.strip():
            raise UsageError(f"{option} is empty.", remedy="Give a value or leave the option out.")
    if overwrite and output is None:
        raise UsageError("--force does nothing without --output.", remedy="Leave it out.")
    if output is not None:
        check_output_file(output, overwrite=overwrite)
    name = "standard input" if file == "-" else Path(file).name
    folders = [Path.cwd()] if file == "-" else [Path(file).parent, Path.cwd()]
    conversion = convert(_read_text(file), name, tool=tool, model=model, dataset=dataset, folders=folders)
    if output is not None:
        atomic_write_text(output, conversion.text)
    return conversion


def _read_text(file: str) -> str:
    if file == "-":
        return sys.stdin.read()
    try:
        return Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8 text (byte {error.start}).") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from None
