"""Names of the commands, the app with them, and the command that is called: only its module is imported."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from orpo_cli import __version__
from orpo_cli.report.console import Console

COMMANDS = (
    "quickstart", "init", "recipes", "validate", "explain", "schema", "convert", "plan", "data", "train", "submit", "sweep", "runs",
    "report", "eval", "benchmark", "chat", "generate", "merge", "export", "push_to_hub", "doctor",
)  # fmt: skip
# These do not import torch.
LIGHT_COMMANDS = ("init", "recipes", "validate", "explain", "schema", "convert", "submit", "runs", "report", "doctor")
# The result of these is not what they print.
FILE_COMMANDS = (
    "init",
    "validate",
    "train",
    "submit",
    "sweep",
    "report",
    "benchmark",
    "merge",
    "export",
    "push_to_hub",
)
# These take long, and print what they compute.
COMPUTING_COMMANDS = ("quickstart", "eval", "generate")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"orpo-cli {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def build_app(commands: Sequence[str] = COMMANDS) -> typer.Typer:
    """The typer app with these commands, each from the ``command`` function (or the ``app``) of its module."""
    app = typer.Typer(
        name="orpo",
        callback=_options,
        help="Fine-tune language models on preference pairs with ORPO: one recipe, one command.",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in commands:
        module = importlib.import_module(f"orpo_cli.cli.{name}")
        command = getattr(module, "app", None)
        if command is not None:  # a group of commands
            app.add_typer(command, name=name)
        else:
            app.command(name.replace("_", "-"))(_reserving_standard_output(module.command))
    return app


def _reserving_standard_output(command: Callable[..., None]) -> Callable[..., None]:
    """``command``, during which libraries print to standard error."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        with Console.reserving_standard_output():
            command(*arguments, **options)

    return run


def commands_to_import(arguments: Sequence[str]) -> Sequence[str]:
    """The commands to import: the called one, or all for the help page and for a misspelt name."""
    first = next((each.replace("-", "_") for each in arguments if not each.startswith("-")), "")
    return (first,) if first in COMMANDS else COMMANDS


def called_command() -> str:
    """The name of the called command; empty for the help page and for a misspelt name."""
    called = commands_to_import(sys.argv[1:])
    return "" if called == COMMANDS else called[0]
