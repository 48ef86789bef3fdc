"""KTO's rows: an answer and whether it is good. A good and a bad answer to the same prompt make a pair."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Any

from orpo_cli.data.formats.format import Drop, Format, GroupedRow, NamedRow, Row, completion_columns, read_completion
from orpo_cli.data.messages import pair_from_conversations, read_messages
from orpo_cli.data.pair import Pair, RowRejected

MAX_UNPAIRED = 100_000  # rows that may wait for a partner; beyond, the oldest is dropped, so memory stays bounded
LABELS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def matches(row: Row) -> bool:
    """A completion and a label that says yes or no."""
    return row.get("completion") is not None and "chosen" not in row and _label(row) is not None


def _label(row: Row) -> bool | None:
    return LABELS.get(str(row.get("label")).lower())


def group(rows: Iterator[NamedRow], drop: Drop) -> Iterator[GroupedRow]:
    """A good and a bad answer as one row, as soon as both have come; each is used once."""
    waiting: OrderedDict[tuple[str, bool], list[NamedRow]] = OrderedDict()
    count = 0
    for row in rows:
        label = _label(row.value) if isinstance(row.value, dict) else None
        if label is None:
            drop(row.name, RowRejected("malformed", "the label is neither true nor false"))
            continue
        prompt = json.dumps(row.value.get("prompt"), sort_keys=True, default=str)
        partners = waiting.get((prompt, not label))
        if partners:
            partner = partners.pop(0)
            count -= 1
            if not partners:
                del waiting[prompt, not label]
            good, bad = (row, partner) if label else (partner, row)
            yield GroupedRow(f"{partner.name}+{_row_number(row.name)}", _pair_row(good.value, bad.value), rows=2)
            continue
        waiting.setdefault((prompt, label), []).append(row)
        count += 1
        if count > MAX_UNPAIRED:
            key = next(iter(waiting))
            drop(waiting[key].pop(0).name, RowRejected("unpaired"))
            count -= 1
            if not waiting[key]:
                del waiting[key]
    for rest in waiting.values():
        for row in rest:
            drop(row.name, RowRejected("unpaired"))


def _pair_row(good: Row, bad: Row) -> Row:
    return {"prompt": good.get("prompt"), "chosen": good.get("completion"), "rejected": bad.get("completion")}


def _row_number(name: str) -> str:
    return name.rpartition(":")[2]


def read(row: Row, notes: Counter[str]) -> Pair:
    """A gathered row."""
    chosen, rejected = completion_columns(row)
    history: Any = read_messages(row.get("prompt"), "prompt", "user")
    return pair_from_conversations(
        history, read_completion(chosen, "completion"), read_completion(rejected, "completion"), notes
    )


KTO = Format(
    "kto",
    "prompt, completion and a label that is true or false; a good and a bad answer to one prompt make a pair (KTO)",
    ("prompt", "completion", "label"),
    matches,
    read,
    group,
)
