"""Turns format: a conversation in which several answers of the assistant have a rejected one beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orpo_cli.data.formats import preference
from orpo_cli.data.formats.format import SCORES, Format, Row, TurnRow
from orpo_cli.data.messages import type_name
from orpo_cli.data.pair import RowRejected
from orpo_cli.data.roles import ROLES

CONVERSATIONS = ("messages", "conversations", "conversation", "turns")
REJECTED_KEYS = ("rejected", "rejected_response", "rejected_content", "rejected_value")
USER_KEYS = ("user", "human", "prompt", "instruction", "question", "input", "query")
ANSWER_KEYS = ("chosen", "assistant", "response", "output", "answer")
PARALLEL = ("prompt", "chosen", "rejected")  # lists of texts of the same length
ITEM_SCORES = tuple(name for names in SCORES for name in names)


def matches(row: Row) -> bool:
    """Whether a message of the row's conversation has a rejected answer, or prompts and both answers are lists."""
    items = row.get(_conversation_column(row))
    given = items if isinstance(items, list) else []
    return _is_parallel(row) or any(_rejected_of(item) is not None or _role(item) == "rejected" for item in given)


def split_turns(row: Row) -> list[TurnRow]:
    """A row of TRL's preference format for each turn that has a chosen and a rejected answer. Raises RowRejected."""
    if _is_parallel(row):
        texts = zip(*(row[key] for key in PARALLEL), strict=True)
        others = {key: value for key, value in row.items() if key not in PARALLEL}
        return _marked(list(_turn_rows([dict(zip(PARALLEL, each, strict=True)) for each in texts], others, "prompt")))
    column = _conversation_column(row)
    items: Any = row.get(column)
    if items is None and preference.matches(row):
        return [TurnRow(row, is_last=True)]
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise RowRejected("malformed", f"{column} is {type_name(items)}, not a list of messages")
    if row.get("chosen") is not None and row.get("rejected") is not None:  # the answers of the last turn
        items = [*items, {"chosen": row["chosen"], "rejected": row["rejected"]}]
    elif row.get("rejected_response") is not None and items and _role(items[-1]) == "assistant":  # of ms-swift
        items = [*items[:-1], {**items[-1], "rejected": row["rejected_response"]}]
    others = {key: value for key, value in row.items() if key not in (*CONVERSATIONS, *PARALLEL)}
    found = list(_turn_rows(items, others, column))
    if not found:
        raise RowRejected("malformed", f"no message of {column} has a rejected answer")
    return _marked(found)


def _turn_rows(items: list[Row], others: Row, column: str) -> Iterator[Row]:
    history: list[Any] = []
    for item in _join_answers(items):
        rejected = _rejected_of(item)
        user = next((item[key] for key in USER_KEYS if item.get(key) is not None), None)
        if _role(item) is None and user is not None:  # a question and its answers in one object
            history.append(user if isinstance(user, dict) else {"role": "user", "content": user})
        elif rejected is not None and _role(item) not in (None, "assistant"):
            raise RowRejected("malformed", f"{column}: a message of the role {_role(item)} has a rejected answer")
        chosen = _chosen_of(item)
        if rejected is not None:
            scores = {name: item[name] for name in ITEM_SCORES if item.get(name) is not None}
            yield {**others, **scores, "prompt": list(history), "chosen": chosen, "rejected": rejected}
        history += chosen


def _marked(rows: list[Row]) -> list[TurnRow]:
    return [TurnRow(row, position == len(rows) - 1) for position, row in enumerate(rows)]


def _join_answers(items: list[Row]) -> Iterator[Row]:
    """Items in which messages of the roles chosen and rejected are one item."""
    chosen: list[Row] = []
    rejected: list[Row] = []
    for item in [*items, None]:
        role = _role(item)
        if role in ("chosen", "rejected") and item is not None:
            (chosen if role == "chosen" else rejected).append({**_without(item, "role", "from"), "role": "assistant"})
            continue
        if chosen or rejected:
            if len(chosen) != 1:
                raise RowRejected("malformed", f"a turn has {len(chosen)} messages of the role chosen, not one")
            yield {"chosen": chosen[0], "rejected": [[each] for each in rejected] or None}
            chosen, rejected = [], []
        if item is not None:
            yield item


def _chosen_of(item: Row) -> list[Any]:
    """Messages that the item adds to the history: itself without its rejected answer, or its chosen answer."""
    if _role(item) is not None and any(item.get(key) is not None for key in ("content", "value", "tool_calls")):
        return [_without(item, "chosen", *REJECTED_KEYS, *ITEM_SCORES)]
    chosen = next((item[key] for key in ANSWER_KEYS if item.get(key) is not None), None)
    if chosen is None:
        if _role(item) is None and _rejected_of(item) is None:
            return []
        if _rejected_of(item) is not None:
            raise RowRejected("malformed", "a turn has a rejected answer and no chosen one")
        return [_without(item, *REJECTED_KEYS)]
    if isinstance(chosen, list):
        return chosen
    return [chosen if isinstance(chosen, dict) else {"role": "assistant", "content": chosen}]


def _rejected_of(item: Any) -> Any:
    """Rejected answer of an item; None where it has none, which a table writes as null or, for a user, as an empty text."""
    if not isinstance(item, dict):
        return None
    found = next((item[key] for key in REJECTED_KEYS if isinstance(item.get(key), str | list | dict)), None)
    return found if found or _role(item) in (None, "assistant") else None


def _role(item: Any) -> str | None:
    """Role of a message as ``ROLES`` has it, or as written; None for an object that is no message."""
    if not isinstance(item, dict):
        return None
    role = item.get("role") if item.get("role") is not None else item.get("from")
    return None if role is None else ROLES.get(str(role).lower(), str(role).lower())


def _without(item: Row, *keys: str) -> Row:
    return {key: value for key, value in item.items() if key not in keys}


def _conversation_column(row: Row) -> str:
    return next((name for name in CONVERSATIONS if isinstance(row.get(name), list)), CONVERSATIONS[0])


def _is_parallel(row: Row) -> bool:
    values = [row.get(key) for key in PARALLEL]
    if not all(isinstance(value, list) and value and all(isinstance(text, str) for text in value) for value in values):
        return False
    return len({len(value) for value in values if value is not None}) == 1


TURNS = Format(
    "turns",
    "a conversation whose assistant messages have a rejected answer beside them, or lists of prompts, chosen and rejected texts",
    (*CONVERSATIONS, *PARALLEL, "rejected_response", "system", "tools"),
    matches,
    preference.read,
    turns=split_turns,
)
