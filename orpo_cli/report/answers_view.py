"""View of answers to prompts on a terminal: the answers of several models side by side, or below each other where it is narrow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from orpo_cli.control_characters import escape_controls
from orpo_cli.json_files import object_or_empty

MIN_COLUMN_WIDTH = 36  # of an answer side by side, in cells


def answer_text(answer: dict[str, Any]) -> str:
    """The text of an answer, with a mark where it was cut at the maximum length."""
    return str(answer["text"]).strip() + ("" if answer["finished"] else " […]")


def prompt_text(row: dict[str, Any]) -> str:
    """The last message of a prompt, with the number of turns before it, which the model has read too."""
    messages = row.get("messages")
    turns = (
        [each for each in messages if object_or_empty(each).get("role") != "system"]
        if isinstance(messages, list)
        else []
    )
    return f"{row['prompt']} (after {len(turns) - 1} earlier messages)" if len(turns) > 1 else str(row["prompt"])


def answers_view(document: dict[str, Any], width: int) -> Iterator[RenderableType]:
    """Each prompt with its answers, for a terminal of ``width`` columns. Lines break at words."""
    variants = document["models"]
    side_by_side = len(variants) > 1 and width >= len(variants) * (MIN_COLUMN_WIDTH + 3) + 1
    for number, row in enumerate(document["answers"]):
        if number:
            yield Text()
        texts = {variant: answer_text(row[variant]) for variant in variants}
        yield _labelled({"prompt": prompt_text(row), **({} if side_by_side else texts)})
        if side_by_side:
            columns = (Column(variant, ratio=1, overflow="fold") for variant in variants)
            table = Table(*columns, box=box.ROUNDED, expand=True)
            table.add_row(*(Text(escape_controls(text)) for text in texts.values()))
            yield table


def _labelled(texts: dict[str, str]) -> Table:
    """Texts with their labels in a column of their own."""
    table = Table.grid(
        Column(no_wrap=True, style="bold"), Column(ratio=1, overflow="fold"), padding=(0, 1), expand=True
    )
    for label, text in texts.items():
        table.add_row(label, Text(escape_controls(text)))
    return table
