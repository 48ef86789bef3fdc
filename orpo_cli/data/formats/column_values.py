"""Values and names of columns: which may be prompts or answers, and which are ids, numbers, dates or labels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from orpo_cli.data.formats.format import parse_number
from orpo_cli.data.messages import is_messages

SEVERAL_WORDS = re.compile(r"\S\s+\S|[\u3040-\u30ff\u3400-\u9fff]{4}")  # Chinese and Japanese write no spaces
PROMPT_FRACTION = 0.5  # of the values: from here on they have several words, and differ, as prompts do
NEARLY_ALL = 0.9  # of the values
MAX_DEPTH = 8  # levels of objects within a column in which fields are searched
DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}([T ]\d.*)?")
LABEL = re.compile(r"[\w/+-]+(\.[\w/+-]+)*")  # gpt-3.5, but not "No."
ID = re.compile(r"[A-Za-z0-9_-]*\d[A-Za-z0-9_-]*")  # q17, 3f2a-99


def has_sentences(name: str, rows: Sequence[Any]) -> bool:
    """Whether most values of a column are messages, or texts of several words that differ between the rows."""
    values = [row[name] for row in rows_with(rows, name) if row[name]]
    if not values or not all(is_prompt_value(value) for value in values):
        return False
    if not all(isinstance(value, str) for value in values):
        return True
    of_words = sum(SEVERAL_WORDS.search(value) is not None for value in values)
    return of_words > PROMPT_FRACTION * len(values) and len(set(values)) > PROMPT_FRACTION * len(values)


def no_answers(name: str, rows: Sequence[Any]) -> bool:
    """Whether nearly all values of a column are numbers, dates or ids: neither prompts nor answers."""
    values = [row[name] for row in rows_with(rows, name) if row[name] not in ("", [])]
    count = sum(is_number(value) or (isinstance(value, str) and _is_date_or_id(value)) for value in values)
    return bool(values) and count >= NEARLY_ALL * len(values)


def is_number(value: Any) -> bool:
    """Whether a value is a number, or the text of one."""
    return parse_number(value) is not None


def _is_date_or_id(text: str) -> bool:
    return bool(DATE.fullmatch(text.strip()) or ID.fullmatch(text.strip()))


def is_label(name: str, rows: Sequence[Any]) -> bool:
    """Whether a column has a few values of one word again and again, such as the names of models."""
    texts = column_texts(name, rows)
    of_one_word = sum(LABEL.fullmatch(text.strip()) is not None for text in texts)
    return len(texts) > 1 and of_one_word >= NEARLY_ALL * len(texts) and len(set(texts)) <= PROMPT_FRACTION * len(texts)


def column_texts(name: str, rows: Sequence[Any]) -> list[str]:
    """Values of a column that are not empty; none where one of them is no text."""
    values = [row[name] for row in rows_with(rows, name) if row[name] != ""]
    return values if all(isinstance(value, str) for value in values) else []


def is_prompt_value(value: Any) -> bool:
    """Whether a value can be a prompt or an answer: a text, or messages."""
    return isinstance(value, str) or (bool(value) and is_messages(value))


def column_names(rows: Sequence[Any]) -> list[str]:
    """Names of the columns of all rows."""
    return list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row if isinstance(name, str)))


def nested_fields(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows whose columns are the fields within objects, by their paths (``data.prompt``); of a list of objects those of the first."""
    return [dict(_fields("", row)) for row in rows if isinstance(row, dict)]


def _fields(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list) and value and isinstance(value[0], dict) and not is_messages(value):
        value = {"0": value[0]}
    if not isinstance(value, dict) or (path and is_messages(value)) or path.count(".") >= MAX_DEPTH:
        yield path, value
        return
    for name, each in value.items():
        yield from _fields(f"{path}.{name}" if path else str(name), each)


def rows_with(rows: Sequence[Any], name: str) -> Iterator[dict[str, Any]]:
    """Rows that have a value in a column."""
    return (row for row in rows if isinstance(row, dict) and row.get(name) is not None)
