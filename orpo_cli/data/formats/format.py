"""Format of preference data, and the functions that several formats use to read a row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, NamedTuple

from orpo_cli.data.json_text import parse_json_text
from orpo_cli.data.messages import check_json, is_messages, read_messages, read_text
from orpo_cli.data.pair import Message, Pair, RowRejected
from orpo_cli.data.sources.opened import Row as NamedRow

Row = dict[str, Any]
Drop = Callable[[str, RowRejected], None]

TOOLS_REMEDY = "Store tools as a list of objects, or as its JSON text."
SYSTEM_COLUMNS = ("system", "system_prompt", "system_message")
SCORES = tuple(
    (pattern.format("chosen"), pattern.format("rejected"))
    for name in ("score", "rating", "avg_rating")
    for pattern in (f"{name}_{{}}", f"{{}}_{name}", f"{{}}-{name}")
)


@dataclass(frozen=True)
class GroupedRow:
    """Row grouped from ``rows`` rows."""

    name: str
    value: Row
    rows: int


class TurnRow(NamedTuple):
    """Row of one turn: the conversation before it, and its answers. ``is_last``: no later turn of the conversation has answers.

    ``below_others``: the turns after its other answers, which have no place in the conversation.
    """

    row: Row
    is_last: bool
    below_others: int = 0


class RejectedAnswers(NamedTuple):
    """Rejected answers of one turn: the row with each of them alone, and their scores. ``key``: text from which one is drawn."""

    rows: list[Row]
    scores: list[float | None]
    key: str


Group = Callable[[Iterator[NamedRow], Drop], Iterator[NamedRow | GroupedRow]]


@dataclass(frozen=True)
class Format:
    """Format of rows.

    ``read`` raises RowRejected for a row that does not fit, and counts what it corrected. Where a pair is spread over several
    rows, ``group`` first joins them to one row, in order, and drops rows without a partner; of a stream, ``group_stream`` does.
    Where a row has more than one pair, ``turns`` splits it into rows of one turn, and ``answers`` these into rows of one rejected
    answer (None: a list of them in the rejected column); ``read`` reads the result. ``choice`` is for the reports.
    """

    name: str
    description: str
    columns: tuple[str, ...]
    matches: Callable[[Row], bool]
    read: Callable[[Row, Counter[str]], Pair]
    group: Group | None = None
    group_stream: Group | None = None  # where it differs from ``group``
    turns: Callable[[Row], list[TurnRow]] | None = None
    answers: Callable[[Row], RejectedAnswers] | None = None
    choice: str = ""  # which answer of a row or a prompt is the chosen one; empty where its column says so


def completion_columns(row: Row, chosen: str = "chosen", rejected: str = "rejected") -> tuple[Any, Any]:
    """Values of the two completion columns. Raises RowRejected where one is missing.

    A column without a value, as tables have it, is an empty completion.
    """
    for key, reason in ((chosen, "empty_chosen"), (rejected, "empty_rejected")):
        if key in row and row[key] is None:
            raise RowRejected(reason)
    missing = [key for key in (chosen, rejected) if row.get(key) is None]
    if missing:
        names = ", ".join(f"{key}: …" for key in missing)
        raise RowRejected(
            "malformed",
            f"no {' and no '.join(missing)}",
            f"Give both completions, or map their columns with `columns: {{{names}}}`.",
        )
    return row[chosen], row[rejected]


def read_completion(value: Any, column: str) -> tuple[Message, ...]:
    """Completion from a text, a message, or messages."""
    return read_messages(value, column, "assistant")


def read_completions(
    row: Row, chosen: str = "chosen", rejected: str = "rejected"
) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The two completions of a row. Raises RowRejected where one is missing."""
    values = completion_columns(row, chosen, rejected)
    return read_completion(values[0], chosen), read_completion(values[1], rejected)


def read_system(row: Row) -> str:
    """Text of the row's system column: a text, or a system message. Empty where there is none. Raises RowRejected."""
    name = next((name for name in SYSTEM_COLUMNS if row.get(name)), SYSTEM_COLUMNS[0])
    value = row.get(name)
    if not is_messages(value) or not value:
        return read_text(value or "", name)
    messages = read_messages(value, name, "system")
    if {message.role for message in messages} != {"system"}:
        raise RowRejected("malformed", f"{name} has messages of another role than system", f"Give {name} as a text.")
    return "\n\n".join(message.content for message in messages)


def has_several_system_texts(row: Row) -> bool:
    """Whether the system columns of a row differ; ``read_system`` reads the first of them."""
    return len({str(row[name]).strip() for name in SYSTEM_COLUMNS if row.get(name)} - {""}) > 1


def with_system(history: tuple[Message, ...], system: str) -> tuple[Message, ...]:
    """``history`` with the text of a system column as first message, unless it has a system message or none at all."""
    if system.strip() and history and history[0].role != "system":
        return (Message("system", system), *history)
    return history


def add_system(pair: Pair, row: Row, notes: Counter[str]) -> Pair:
    """Conversation ``pair`` with the text of a system column before its messages, unless they have another system text."""
    system = read_system(row)
    first = pair.prompt[0] if pair.prompt else None
    if isinstance(first, Message) and first.role == "system" and system.strip() not in ("", first.content.strip()):
        notes["system_column_unused"] += 1
    if isinstance(pair.prompt, str) or not system.strip():
        return pair
    rejected = None if pair.rejected_prompt is None else with_system(pair.rejected_prompt, system)
    return replace(pair, prompt=with_system(pair.prompt, system), rejected_prompt=rejected)


def read_tools(row: Row) -> tuple[dict[str, Any], ...] | None:
    """Tools that a row's conversation may call: a list of objects; each of them, or the list, may be JSON text.

    Raises RowRejected for anything else.
    """
    value = _parse_tools(row.get("tools"))
    if not value:
        return None
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        value = [_parse_tools(tool) for tool in value]
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise RowRejected("malformed", "tools is not a list of objects", TOOLS_REMEDY)
    check_json(value, "tools")
    return tuple(value)


def _parse_tools(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse_json_text(value) if value.strip() else None
    except ValueError as error:
        raise RowRejected("malformed", f"tools is not JSON: {error}", TOOLS_REMEDY) from error


def parse_number(value: Any) -> float | None:
    """Score as a number; None for anything else, such as ``N/A`` and the NaN of a missing value in a table."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return None if math.isnan(found) else found


def read_scores(row: Row) -> tuple[float, float] | None:
    """Scores of chosen and rejected under one of the names that datasets use; None where there are none."""
    for of_chosen, of_rejected in SCORES:
        if of_chosen not in row or of_rejected not in row:
            continue
        better, worse = parse_number(row.get(of_chosen)), parse_number(row.get(of_rejected))
        if better is not None and worse is not None:
            return better, worse
    return None
