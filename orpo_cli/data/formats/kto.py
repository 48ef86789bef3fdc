"""KTO format: a completion and whether it is good. A good and a bad completion of the same prompt form a pair."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import replace

from orpo_cli.data.formats.format import (
    SYSTEM_COLUMNS,
    Drop,
    Format,
    GroupedRow,
    Row,
    add_system,
    completion_columns,
    read_completion,
    read_tools,
)
from orpo_cli.data.messages import conversation_pair, read_messages
from orpo_cli.data.pair import Pair, RowRejected
from orpo_cli.data.sources.opened import Row as NamedRow

MAX_UNPAIRED = 100_000  # rows that wait for a partner; above, the oldest is dropped, to bound the memory
SHARED = ("prompt", *SYSTEM_COLUMNS, "tools")  # columns in which the two rows of a pair are equal
LABELS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def matches(row: Row) -> bool:
    """Whether the row has a completion and a boolean label."""
    return row.get("completion") is not None and "chosen" not in row and _label(row) is not None


def _label(row: Row) -> bool | None:
    return LABELS.get(str(row.get("label")).lower())


def group(rows: Iterator[NamedRow], drop: Drop) -> Iterator[GroupedRow]:
    """Join a good and a bad completion to one row as soon as both are read; each is used once."""
    unpaired: OrderedDict[tuple[str, bool], list[NamedRow]] = OrderedDict()
    count = 0
    for row in rows:
        label = _label(row.value) if isinstance(row.value, dict) else None
        if label is None:
            drop(
                row.name,
                RowRejected("malformed", "the label is neither true nor false", "Give true, false, 1 or 0 as label."),
            )
            continue
        shared = {name: row.value.get(name) for name in SHARED}
        prompt = json.dumps(shared, sort_keys=True, default=str)
        partners = unpaired.get((prompt, not label))
        if partners:
            partner = partners.pop(0)
            count -= 1
            if not partners:
                del unpaired[prompt, not label]
            good, bad = (row, partner) if label else (partner, row)
            completions = {"chosen": good.value.get("completion"), "rejected": bad.value.get("completion")}
            name = f"{partner.name}+{row.name.rpartition(':')[2]}"
            yield GroupedRow(name, {**shared, **completions}, rows=2)
            continue
        unpaired.setdefault((prompt, label), []).append(row)
        count += 1
        if count > MAX_UNPAIRED:
            key = next(iter(unpaired))
            drop(unpaired[key].pop(0).name, RowRejected("unpaired"))
            count -= 1
            if not unpaired[key]:
                del unpaired[key]
    for rows_left in unpaired.values():
        for row in rows_left:
            drop(row.name, RowRejected("unpaired"))


def read(row: Row, notes: Counter[str]) -> Pair:
    """Grouped row."""
    chosen, rejected = (read_completion(value, "completion") for value in completion_columns(row))
    pair = conversation_pair(read_messages(row.get("prompt"), "prompt", "user"), chosen, rejected, notes)
    return replace(add_system(pair, row, notes), tools=read_tools(row))


KTO = Format(
    "kto",
    "prompt, completion and a label that is true or false; a good and a bad completion of one prompt form a pair (KTO)",
    (*SHARED, "completion", "label"),
    matches,
    read,
    group,
)
