"""A printed ``ORPOConfig(...)``, read back: Python as somebody wrote it, or what transformers prints, whose texts lack quotes."""

from __future__ import annotations

import ast
import re
from typing import Any

from orpo_cli.recipe.source.yaml_reader import MAX_INT

_CALL = re.compile(r"\b(?:[A-Za-z_]\w*\.)*\w*(?:Config|Arguments)\s*\(")
_NAME = re.compile(r"\s*([A-Za-z_]\w*)\s*=")
_ENUM = re.compile(r"^<[\w.]+:\s*(.+)>$", re.DOTALL)  # <IntervalStrategy.NO: 'no'>
_MEMBER = re.compile(r"^[A-Z]\w*\.([A-Z][A-Z0-9_]*)$")  # IntervalStrategy.NO, as Python 3.11 and newer print it
_SECRET_PLACEHOLDER = re.compile(r"^<[A-Z_]+>$")  # <HUB_TOKEN>: what transformers prints for a secret
_INNER = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*\((.*)\)$", re.DOTALL)
_BRACKETS = {"(": ")", "[": "]", "{": "}", "<": ">"}


def is_printed_config(text: str) -> bool:
    """Whether ``text`` holds something like ``ORPOConfig(name=value, …)`` and is no YAML file that mentions one."""
    call = _call(text)
    return call is not None and _NAME.match(text, call.end()) is not None


def printed_arguments(text: str) -> dict[str, Any]:
    """The arguments of the ORPOConfig, else the first configuration, in ``text``. A value that is no Python is kept as text."""
    call = _call(text)
    if call is None:
        return {}
    return _arguments(text[call.end() :])


def class_name(text: str) -> str:
    """The name of the class that was printed: ``ORPOConfig``."""
    call = _call(text)
    return call.group().rstrip("( \n\t").rpartition(".")[2] if call else ""


def _call(text: str) -> re.Match[str] | None:
    """The call that matters, outside comments of a line."""
    calls = [each for each in _CALL.finditer(text) if not _in_comment(text, each.start())]
    mine = [each for each in calls if each.group().rstrip("( \n\t").endswith("ORPOConfig")]
    return next(iter(mine or calls), None)


def _in_comment(text: str, position: int) -> bool:
    return text[text.rfind("\n", 0, position) + 1 : position].lstrip().startswith("#")


def _arguments(text: str) -> dict[str, Any]:
    """``name=value`` pairs up to the bracket that closes the call."""
    arguments: dict[str, Any] = {}
    for part in _split_arguments(text):
        name = _NAME.match(part)
        if name is not None:
            arguments[name.group(1)] = _value(part[name.end() :].strip())
    return arguments


def _split_arguments(text: str) -> list[str]:
    """``text`` cut at the commas between arguments: outside brackets and quotes, and followed by a name or the end."""
    parts: list[str] = []
    closing: list[str] = []
    start = 0
    position = 0
    while position < len(text):
        character = text[position]
        if character in "'\"" and (quoted := _end_of_quoted(text, position)):
            position = quoted
            continue
        if closing and character == closing[-1]:
            closing.pop()
        elif character in _BRACKETS and (character != "<" or _opens_angle(text, position)):
            closing.append(_BRACKETS[character])
        elif character == "#" and text[position - 1 : position].isspace():
            end = text.find("\n", position)
            end = len(text) if end < 0 else end
            text = text[:position] + text[end:]
            continue
        elif not closing and character == ")":
            break
        elif not closing and character == "," and re.match(r",\s*(?:[A-Za-z_]\w*\s*=|\)|$|#)", text[position:]):
            parts.append(text[start:position])
            start = position + 1
        position += 1
    return [*parts, text[start:position]]


def _end_of_quoted(text: str, start: int) -> int | None:
    """Where the text in quotes that starts at ``start`` ends; None for an apostrophe, which nothing closes on its line."""
    if text[start - 1 : start].isalnum():
        return None
    found = re.compile(rf"{text[start]}(?:\\.|[^\\\n{text[start]}])*{text[start]}").match(text, start)
    return found.end() if found else None


def _opens_angle(text: str, position: int) -> bool:
    return re.match(r"<[A-Za-z_][\w.]*(?::[^\n]*)?>", text[position:]) is not None


def _to_yaml_value(value: Any) -> Any:
    """``value`` as YAML has it: tuples and sets are lists, and what it has no kind for is text."""
    if isinstance(value, dict):
        return {str(name): _to_yaml_value(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_to_yaml_value(inner) for inner in value]
    if isinstance(value, set):
        return sorted(map(str, value))
    fits = value is None or isinstance(value, str | bool | float) or (isinstance(value, int) and abs(value) <= MAX_INT)
    return value if fits else repr(value)


def _value(text: str) -> Any:
    if enum := _ENUM.match(text):
        return _value(enum.group(1))
    if member := _MEMBER.match(text):
        return member.group(1).lower()
    if _SECRET_PLACEHOLDER.match(text):
        return None
    try:
        return _to_yaml_value(ast.literal_eval(text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    if inner := _INNER.match(text):  # AcceleratorConfig(split_batches=False), device(type='cpu')
        return _arguments(inner.group(1) + ")") or text
    return text
