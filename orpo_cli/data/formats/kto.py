"""KTO format: a completion and whether it is good. A good and a bad completion of the same prompt form a pair."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

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
GOOD_LABELS = (
    "true", "1", "1.0", "yes", "good", "up", "thumbs up", "like", "liked", "positive", "accepted", "helpful", "👍", "赞", "好", "满意", "是", "对",
    "有用", "采纳",
)  # fmt: skip
BAD_LABELS = (
    "false", "0", "0.0", "no", "bad", "down", "thumbs down", "dislike", "disliked", "negative", "rejected", "unhelpful", "👎", "踩", "差",
    "不满意", "否", "错", "没用", "无用", "未采纳", "不采纳",
)  # fmt: skip
LABELS = {**dict.fromkeys(GOOD_LABELS, True), **dict.fromkeys(BAD_LABELS, False)}


def matches(row: Row) -> bool:
    """Whether the row has a completion and a label that says whether it is good."""
    return row.get("completion") is not None and "chosen" not in row and read_label(row.get("label")) is not None


def read_label(value: Any) -> bool | None:
    """Whether a label says that a completion is good; None where it says neither."""
    text = str(value).strip().lower().replace("_", " ").replace("-", " ")
    return LABELS.get(text.rstrip("\ufe0f\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"))  # variants of 👍


def group(rows: Iterator[NamedRow], drop: Drop) -> Iterator[GroupedRow]:
    """Join a good and a bad completion to one row as soon as both are read; each is used once."""
    unpaired: OrderedDict[tuple[str, bool], list[NamedRow]] = OrderedDict()
    count = 0
    for row in rows:
        if isinstance(row.value, dict) and row.value.get("label") is None:
            drop(row.name, RowRejected("no_label"))
            continue
        label = read_label(row.value.get("label")) if isinstance(row.value, dict) else None
        if label is None:
            drop(
                row.name,
                RowRejected(
                    "malformed",
                    "the label is neither good nor bad",
                    "Known: true and false, 1 and 0, yes and no, up and down.",
                ),
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
    "prompt, completion and a label: true or false, good or bad, up or down; a good and a bad completion of one prompt form a pair (KTO)",
    (*SHARED, "completion", "label"),
    matches,
    read,
    group,
    choice="the good answer",
)
