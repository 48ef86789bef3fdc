"""Messages stored as text: csv files, and tables made from data frames, hold lists of messages as JSON or as Python text."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Collection
from typing import Any

from orpo_cli.data.pair import RowRejected
from orpo_cli.data.roles import ROLES, normalize_role

ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value", "tool_calls", "function_call", "parts")
LISTS_OF: dict[str, type] = {"history": list} | dict.fromkeys(
    ("completions", "answers", "messages", "conversations", "conversation"), dict
)
MAX_ENCODINGS = 3  # JSON within JSON text
# Start of messages as text; with it, a text that cannot be parsed is a damaged list of messages
MESSAGES_START = re.compile(
    r"""\s*(?:\[\s*\{\s*(["'])(?:role|from|content|value)\1\s*:|\{\s*(["'])(?:role|from)\2\s*:\s*["'](?:system|user|human|assistant|gpt)["'])"""
)
PYTHON_START = re.compile(r"""\s*(?:\[\s*[{"']|\{)""")  # of a list of objects or texts, or of one object
STRING_OR_GAP = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')(\s+(?=["']))?|\}\s+\{|["'].*""", re.DOTALL)
REMEDY = "Store messages as lists, or as valid JSON text; `format: text` trains such a text as it is."


def parse_json_text(text: str) -> Any:
    """Value of JSON text, of JSON text that is encoded several times, and of Python text, as ``str`` and numpy write lists.

    Raises ValueError for any other text.
    """
    value: Any = text
    for _ in range(MAX_ENCODINGS):
        value = _parse_once(value)
        if not isinstance(value, str):
            return value
    raise ValueError("a text within JSON text")


def _parse_once(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        if not PYTHON_START.match(text):
            raise
        separated = STRING_OR_GAP.sub(_with_comma, text)
        try:
            with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
                return json.loads(
                    json.dumps(ast.literal_eval(separated.strip()))
                )  # not a set, nor a key that is no text
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            raise error from None


def _with_comma(found: re.Match[str]) -> str:
    """A text, or the gap between two objects, with the comma that numpy does not write after it.

    A text that does not end is the rest of the value: it is not searched again from each of its quotes.
    """
    if found[1] is None:
        return "}, {" if found[0].startswith("}") else found[0]
    return f"{found[1]}, " if found[2] else found[1]


def parse_cells(row: Any) -> Any:
    """Row whose texts that are messages are lists of messages; ``tools`` stays, since ``read_tools`` parses it."""
    if not isinstance(row, dict):
        return row
    parsed = {name: value for name, cell in row.items() if (value := _parse_cell(str(name), cell)) is not None}
    return {**row, **parsed} if parsed else row


def _parse_cell(name: str, cell: Any) -> Any:
    """Messages, or the list of a column of ``LISTS_OF``, that ``cell`` has as text; None for any other cell."""
    if isinstance(cell, list) and cell and all(isinstance(item, str) for item in cell):
        items = [_parse_cell("", item) for item in cell]
        return items if all(isinstance(item, dict) for item in items) else None
    if not isinstance(cell, str) or cell.lstrip()[:1] not in ("[", "{", '"') or not cell.strip():
        return None
    kind = LISTS_OF.get(name)
    if kind is None and not any(key in cell for key in ROLE_KEYS):
        return None
    try:
        value = parse_json_text(cell)
    except ValueError:
        return None
    if _are_messages(value) or (isinstance(value, dict) and _are_messages(value.get("messages"))):
        return value
    if kind is None or not isinstance(value, list) or not value:
        return None
    return value if all(isinstance(item, kind) for item in value) else None


def _are_messages(value: Any) -> bool:
    """Whether every item has a role and a content. Stricter than ``is_messages``, since an answer may be JSON, too."""
    if isinstance(value, dict):
        return _is_message(value) and normalize_role(value.get("role") or value.get("from")) in ROLES
    return isinstance(value, list) and bool(value) and all(_is_message(item) for item in value)


def _is_message(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    return any(isinstance(item.get(key), str) for key in ROLE_KEYS) and any(key in item for key in CONTENT_KEYS)


def check_cells(row: dict[str, Any], columns: Collection[str]) -> None:
    """Raise RowRejected where a text under ``columns`` starts as a list of messages, and is not one that can be parsed."""
    for name in columns:
        cell = row.get(name)
        if isinstance(cell, str) and MESSAGES_START.match(cell):
            try:
                parse_json_text(cell)
            except ValueError as error:
                detail = f"{name} holds messages as text that is not JSON: {error}"
                raise RowRejected("malformed", detail, REMEDY) from None
