"""Command lines: the flags of a training command such as ``swift rlhf --rlhf_type orpo …``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from orpo_cli.recipe.source.yaml_reader import parse_value

# Programs that train, also without flags: `axolotl train config.yml`.
_PROGRAM = re.compile(
    r"^[ \t]*(?:!|\$ )?(?:\w+=\S*[ \t]+)*(?:swift|llamafactory-cli|axolotl|autotrain|trl)[ \t]+[a-z]+[ \t]+\S",
    re.MULTILINE,
)
_FLAG = re.compile(
    r"(?:--|[\u2013\u2014]|-\u2013)(?P<name>[A-Za-z_][\w.-]*)(?:(?P<mark>[:=])(?P<value>.*))?", re.DOTALL
)


def is_command(text: str) -> bool:
    """Whether ``text`` looks like a shell command, not like a YAML file."""
    if text.startswith("#!"):
        return True
    has_command = re.search(r"(?:^|\s)(?:--|[\u2013\u2014])[A-Za-z_][\w-]*[ =\\:]", text) or _PROGRAM.search(text)
    return has_command is not None and not re.search(r"^[A-Za-z_]\w*:\s", text, re.MULTILINE)


def is_flag(argument: str) -> bool:
    """Whether ``argument`` starts a flag; a dash that a word processor has made of ``--`` counts."""
    return _FLAG.fullmatch(argument) is not None


def parse_flags(arguments: Sequence[str]) -> dict[str, Any]:
    """Mapping of ``--name value`` flags. Values are parsed as YAML; several become a list, none means true.

    ``--no_name`` sets name to false, as in transformers. The colon of ``--name: value`` is left out.
    """
    flags: dict[str, Any] = {}
    name = ""
    for argument in arguments:
        if found := _FLAG.fullmatch(argument):
            name = found["name"].replace("-", "_")
            has_value = found["value"] or found["mark"] == "="
            flags[name] = [parse_value(found["value"])] if has_value else []
        elif name:
            flags[name].append(parse_value(argument))
    return {
        key.removeprefix("no_") if not values and key.startswith("no_") else key: _single_value(key, values)
        for key, values in flags.items()
    }


def misspelt_flags(arguments: Sequence[str]) -> list[str]:
    """Flags that a program would not know: with a colon after the name, or with a typographic dash."""
    found = [(argument, _FLAG.fullmatch(argument)) for argument in arguments]
    return [
        argument.partition("=")[0]
        for argument, flag in found
        if flag and (flag["mark"] == ":" or not argument.startswith("--"))
    ]


def _single_value(key: str, values: list[Any]) -> Any:
    if not values:
        return not key.startswith("no_")
    return values[0] if len(values) == 1 else values
