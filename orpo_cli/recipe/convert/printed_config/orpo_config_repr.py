"""Parser of a printed ``ORPOConfig(...)``: a Python call, or the output of transformers, whose strings have no quotes."""

from __future__ import annotations

import ast
import re
from typing import Any

from orpo_cli.recipe.source.yaml_reader import MAX_INT

_CALL = re.compile(r"\b(?:[A-Za-z_]\w*\.)*\w*(?:Config|Arguments)\s*\(")
_NAME = re.compile(r"\s*([A-Za-z_]\w*)\s*=")
_ENUM = re.compile(r"^<[\w.]+:\s*(.+)>$", re.DOTALL)  # <IntervalStrategy.NO: 'no'>
_MEMBER = re.compile(r"^[A-Z]\w*\.([A-Z][A-Z0-9_]*)$")  # IntervalStrategy.NO, as Python 3.11 and newer print it
_SECRET_PLACEHOLDER = re.compile(r"^<[A-Z_]+>$")  # <HUB_TOKEN>: transformers prints this for a secret
_INNER = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*\((.*)\)$", re.DOTALL)
_BRACKETS = {"(": ")", "[": "]", "{": "}", "<": ">"}


def is_printed_config(text: str) -> bool:
    """Whether ``text`` contains a call such as ``ORPOConfig(name=value, …)``."""
    call = _call(text)
    return call is not None and _NAME.match(text, call.end()) is not None


def printed_arguments(text: str) -> dict[str, Any]:
    """Arguments of the ORPOConfig, else of the first configuration, in ``text``. A value that is not valid Python stays text."""
    call = _call(text)
    return _arguments(text[call.end() :]) if call else {}


def class_name(text: str) -> str:
    """Name of the printed class, such as ``ORPOConfig``."""
    call = _call(text)
    return _callee(call).rpartition(".")[2] if call else ""


def _call(text: str) -> re.Match[str] | None:
    """Call of ORPOConfig in ``text``, else the first call of a configuration; calls in comments do not count."""
    calls = [call for call in _CALL.finditer(text) if not _in_comment(text, call.start())]
    return next((call for call in calls if _callee(call).endswith("ORPOConfig")), calls[0] if calls else None)


def _callee(call: re.Match[str]) -> str:
    return call.group().rstrip("( \n\t")


def _in_comment(text: str, position: int) -> bool:
    return text[text.rfind("\n", 0, position) + 1 : position].lstrip().startswith("#")


def _arguments(text: str) -> dict[str, Any]:
    """Arguments ``name=value`` up to the bracket that closes the call."""
    arguments: dict[str, Any] = {}
    for part in _split_arguments(text):
        name = _NAME.match(part)
        if name is not None:
            arguments[name.group(1)] = _value(part[name.end() :].strip())
    return arguments


def _split_arguments(text: str) -> list[str]:
    """Parts of ``text`` between argument commas: those outside brackets and quotes, followed by a name or the end."""
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
    """End of the quoted string that starts at ``start``; None for an apostrophe, without a closing quote on its line."""
    if text[start - 1 : start].isalnum():
        return None
    quoted = re.compile(rf"{text[start]}(?:\\.|[^\\\n{text[start]}])*{text[start]}").match(text, start)
    return quoted.end() if quoted else None


def _opens_angle(text: str, position: int) -> bool:
    return re.match(r"<[A-Za-z_][\w.]*(?::[^\n]*)?>", text[position:]) is not None


def _to_yaml_value(value: Any) -> Any:
    """YAML equivalent of a Python value: tuples and sets become lists, other types text."""
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
