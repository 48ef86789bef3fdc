"""Message trees of OpenAssistant: replies of the assistant to the same message, with a rank. Nested, or one message a row."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from orpo_cli.data.formats import preference
from orpo_cli.data.formats.format import Drop, Format, GroupedRow, Row, TurnRow, parse_number
from orpo_cli.data.formats.row_groups import GroupRows, all_rows, consecutive_rows
from orpo_cli.data.messages import type_name
from orpo_cli.data.pair import RowRejected
from orpo_cli.data.sources.opened import Row as NamedRow

ROLES = {"prompter": "user", "user": "user", "assistant": "assistant"}
FLAT_COLUMNS = ("message_id", "parent_id", "message_tree_id", "text", "role")
DELETED = ("true", "1", "1.0")  # csv files have texts
MAX_DEPTH = 200  # messages of a path, far below Python's limit of recursion


def matches(row: Row) -> bool:
    """Whether the row is a tree of messages, or one message of a tree."""
    return _is_tree(row.get("prompt")) or _is_flat(row)


def _is_tree(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("replies"), list) and isinstance(node.get("text"), str)


def _is_flat(row: Row) -> bool:
    return all(name in row for name in FLAT_COLUMNS) and _role(row) is not None


def group(rows: Iterator[NamedRow], drop: Drop, group_rows: GroupRows = all_rows) -> Iterator[NamedRow | GroupedRow]:
    """Join the rows that are messages of one tree; rows that are trees stay as they are."""
    for messages in group_rows(rows, _tree_id):
        if _is_message(messages[0]):
            yield from _tree_of(messages, drop)
        else:
            yield from messages


def _is_message(row: NamedRow) -> bool:
    return isinstance(row.value, dict) and _is_flat(row.value)


def _tree_id(row: NamedRow) -> Any:
    """The tree of a message; a name of its own for every other row."""
    return [row.value["message_tree_id"]] if _is_message(row) else row.name


def _tree_of(messages: list[NamedRow], drop: Drop) -> Iterator[GroupedRow]:
    """Tree of the messages of several rows; messages that its root does not lead to are dropped."""
    nodes: dict[Any, Row] = {_id(row.value["message_id"]): {**row.value, "replies": []} for row in messages}
    root = next((node for node in nodes.values() if _id(node["parent_id"]) is None), None)
    for node in nodes.values():
        if (parent := _id(node["parent_id"])) in nodes:
            nodes[parent]["replies"].append(node)
    reached, pending = set(), [root] if root is not None else []
    while pending:
        node = pending.pop()
        reached.add(_id(node["message_id"]))
        pending += node["replies"]
    for row in messages:
        if _id(row.value["message_id"]) not in reached:
            drop(row.name, RowRejected("malformed", "no other row is the message of its parent_id"))
    if root is not None:
        yield GroupedRow(f"{messages[0].name}(+{len(messages) - 1})", {"prompt": root}, rows=len(reached))


def _id(value: Any) -> Any:
    """Id of a message as a key. None for that of no message, which csv files write as an empty text and tables as NaN."""
    if value == "" or value != value:
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


def split_turns(row: Row) -> list[TurnRow]:
    """A row of TRL's preference format for each message with two replies of different rank. Raises RowRejected.

    The conversation goes on after the best reply only: the loss of a prompt would train a rejected one. The others are counted.
    """
    tree = row.get("prompt")
    if not _is_tree(tree):
        raise RowRejected("malformed", f"prompt is {type_name(tree)}, not a message with text and replies")
    return [turn._replace(row={**row, **turn.row}) for turn in _turns_below(tree, [])]


def _turns_below(node: Any, history: list[Row]) -> list[TurnRow]:
    """Turns at and below a message, each before the later ones."""
    if len(history) >= MAX_DEPTH:
        raise RowRejected("malformed", f"the tree is deeper than {MAX_DEPTH} messages")
    history = [*history, _message(node)]
    replies = _replies(node)
    if history[-1]["role"] == "assistant":
        return [turn for reply in replies for turn in _turns_below(reply, history)]
    later = _turns_below(replies[0], history) if replies else []
    answers = _answers(replies)
    if answers is None:
        return later
    chosen, rejected = answers
    row = {
        "prompt": history,
        "chosen": [_message(chosen)],
        "rejected": [[_message(reply)] for reply in rejected],
        "score_chosen": -_rank(chosen),
        "score_rejected": [-_rank(reply) for reply in rejected],
    }
    return [TurnRow(row, is_last=not later, below_others=_count_turns(replies[1:])), *later]


def _replies(node: Row) -> list[Row]:
    """Replies to a message, the best first. Those without a rank are the last, in their order."""
    given = node.get("replies")
    replies = [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
    return sorted((reply for reply in replies if str(reply.get("deleted")).lower() not in DELETED), key=_rank)


def _count_turns(nodes: list[Row]) -> int:
    """Number of turns at and below some messages."""
    count, pending = 0, list(nodes)
    while pending:
        node = pending.pop()
        replies = _replies(node)
        count += _role(node) == "user" and _answers(replies) is not None
        pending += replies
    return count


def _answers(replies: list[Row]) -> tuple[Row, list[Row]] | None:
    """Best reply and the worse ones among replies in the order of their rank; None where fewer than two have a rank."""
    ranked = [reply for reply in replies if parse_number(reply.get("rank")) is not None]
    worse = [reply for reply in ranked if _rank(reply) > _rank(ranked[0])]
    return (ranked[0], worse) if worse else None


def _rank(reply: Row) -> float:
    """Rank of a reply: 0 is the best; replies without one come last."""
    rank = parse_number(reply.get("rank"))
    return float("inf") if rank is None else rank


def _role(node: Row) -> str | None:
    """Role of a message; None where it has none of ``ROLES``."""
    return ROLES.get(str(node.get("role")))


def _message(node: Any) -> Row:
    role = _role(node) if isinstance(node, dict) else None
    if role is None:
        raise RowRejected("malformed", f"a message of the tree has no role of {', '.join(ROLES)}")
    return {"role": role, "content": node.get("text")}


OASST = Format(
    "oasst",
    "trees of messages with ranked replies, nested or one message a row (OpenAssistant)",
    ("prompt", "message_tree_id", *FLAT_COLUMNS[:2], *FLAT_COLUMNS[3:], "rank"),
    matches,
    preference.read,
    group,
    partial(group, group_rows=consecutive_rows),
    turns=split_turns,
)
