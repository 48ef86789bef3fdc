"""Commands page of docs/reference: the help text, examples, arguments and options of every command."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import typer

from orpo_cli.cli.commands import build_app
from tools.docs.markdown_tables import cell, markdown_table

INTRODUCTION = """\
The output of `orpo COMMAND --help` for all commands. Results are printed to standard output, and all other messages to standard
error. [Exit codes](../troubleshooting/index.md#exit-codes) are the same for all commands. `-` instead of a recipe reads standard input."""
MARKUP = re.compile(r"\[/?bold\]")
EXAMPLES = re.compile(r"^\[bold\]Examples?\[/bold\]\n+((?:^ +\S.*\n?|^\n)+)", re.MULTILINE)


def page(generated: str) -> str:
    """Text of the page: purpose, examples, arguments and options of every command."""
    commands = dict(_leaves(typer.main.get_command(build_app()), "orpo"))
    parts = [f"# Commands\n\n{generated}".strip(), INTRODUCTION]
    parts += [_section(name, command) for name, command in commands.items()]
    return "\n\n".join(parts) + "\n"


def _leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Full names and commands below ``command``, including groups that are commands themselves."""
    inner = getattr(command, "commands", None) or {}
    if not inner or (command.help and command.invoke_without_command):
        yield name, command
    for inner_name, inner_command in inner.items():
        yield from _leaves(inner_command, f"{name} {inner_name}")


def _section(name: str, command: Any) -> str:
    text = inspect.cleandoc(command.help or "") + "\n"
    examples = EXAMPLES.search(text)
    parts = [f"## {name}", MARKUP.sub("**", EXAMPLES.sub("", text)).strip()]
    if examples is not None:
        parts.append(f"```sh\n{inspect.cleandoc(examples[1]).strip()}\n```")
    rows = [(_names(each), cell(_meaning(each))) for each in command.params if not getattr(each, "hidden", False)]
    parts.append(markdown_table(("argument or option", "meaning"), rows))
    return "\n\n".join(parts)


def _names(parameter: Any) -> str:
    """``--set SECTION.KEY=VALUE``, ``--json``, ``RECIPE``."""
    if parameter.param_type_name == "argument":
        word = parameter.metavar or parameter.name.upper()
        return f"`{word}`" if parameter.required else f"`[{word}]`"
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    choices = getattr(getattr(parameter, "type_descriptor", None), "choices", None)
    value = parameter.metavar or ("|".join(map(str, choices)) if choices else parameter.name.upper())
    return names if parameter.is_flag else f"{names} `{value}`".replace("|", "\\|")


def _meaning(parameter: Any) -> str:
    text = (getattr(parameter, "help", None) or "").strip()
    default = parameter.default
    if parameter.param_type_name == "option" and not parameter.is_flag and isinstance(default, str | int | float):
        text += f" Default: `{default}`."
    return text
