"""Shell commands: the flags of a training command such as ``swift rlhf --rlhf_type orpo …``."""

from __future__ import annotations

import re
import shlex
from typing import Any

from orpo_cli.recipe.source.yaml_reader import parse_value

_ASSIGNMENT = re.compile(r"^\s*(?:export\s+)?([A-Za-z_]\w*)=(\S*)\s*$", re.MULTILINE)
_FLAG = re.compile(r"^--[A-Za-z_]")


def is_command(text: str) -> bool:
    """Whether ``text`` looks like a shell command with ``--flags``, not like a YAML file."""
    return bool(re.search(r"(?:^|\s)--[A-Za-z_]\w*[ =\\]", text)) and not re.search(
        r"^[A-Za-z_]\w*:\s", text, re.MULTILINE
    )


def split_command(text: str) -> list[str]:
    """Arguments of the first command in ``text`` that has flags, with the shell variables set above it.

    Raises ValueError if a quote is not closed.
    """
    variables = dict(_ASSIGNMENT.findall(text))
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        if re.search(r"(?:^|\s)--[A-Za-z_]", line) and not line.lstrip().startswith("#"):
            line = re.sub(
                r"\$\{?([A-Za-z_]\w*)\}?", lambda match: variables.get(match.group(1), match.group()).strip("'\""), line
            )
            return shlex.split(
                re.sub(r"\$\(([^()]*)\)", lambda match: "'" + match.group().replace("'", "") + "'", line)
            )
    return []


def parse_flags(arguments: list[str]) -> dict[str, Any]:
    """Mapping of ``--name value`` flags. Values are parsed as YAML; several become a list, none means true.

    ``--no_name`` sets name to false, as in transformers.
    """
    flags: dict[str, Any] = {}
    name = ""
    for argument in arguments:
        if _FLAG.match(argument):
            name, equals, value = argument.removeprefix("--").partition("=")
            name = name.replace("-", "_")
            flags[name] = [parse_value(value)] if equals else []
        elif name:
            flags[name].append(parse_value(argument))
    return {
        key.removeprefix("no_") if not values and key.startswith("no_") else key: _single_value(key, values)
        for key, values in flags.items()
    }


def _single_value(key: str, values: list[Any]) -> Any:
    if not values:
        return not key.startswith("no_")
    return values[0] if len(values) == 1 else values
