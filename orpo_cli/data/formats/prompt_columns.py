"""Prompt column: the columns of a source that may be the prompt, by their names and by their texts."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

from orpo_cli.data.formats.column_values import (
    column_names,
    has_sentences,
    is_label,
    is_prompt_value,
    no_answers,
    rows_with,
)
from orpo_cli.data.formats.column_words import BETTER, PROMPT, PROMPT_NAMES, RESPONSE, WORSE
from orpo_cli.data.pair import RowRejected

PLAIN_NAME = re.compile(r"[A-Za-z_][\w.-]*")  # a YAML scalar that needs no quotes


def prompt_candidates(rows: Sequence[Any], used: Collection[str]) -> list[str]:
    """Columns that may be the prompt and that are not in ``used``: those with a usual name first.

    A column of another name is one where its values are texts of several words that differ between the rows, or messages.
    """
    found = [
        name
        for name in column_names(rows)
        if name not in used and not (BETTER.occur_in(name) or WORSE.occur_in(name)) and _may_be_prompt(name, rows)
    ]
    return sorted(found, key=prompt_rank)


def is_prompt_name(name: str) -> bool:
    """Whether a column has a usual name of the prompt."""
    return prompt_rank(name) <= len(PROMPT_NAMES)


def prompt_rank(name: str) -> int:
    """Place among the usual names; after them a name that contains such a word, then all others."""
    if name.lower() in PROMPT_NAMES:
        return PROMPT_NAMES.index(name.lower())
    return len(PROMPT_NAMES) + (not PROMPT.occur_in(name) or RESPONSE.occur_in(name))


def no_prompt(names: Sequence[str], *, of_texts: bool = False) -> RowRejected:
    """Rejection of a row without a prompt, with ``columns:`` for the columns that may be one; ``of_texts``: the answers are texts."""
    if not names:
        return RowRejected("empty_prompt", "no prompt, while most rows of the source have one")
    others = f" (or {', '.join(names[1:])})" if names[1:] else ""
    return RowRejected(
        "empty_prompt",
        f"no prompt, and {' and '.join(names)} {'are' if names[1:] else 'is'} not used",
        f"Name the column of the prompt with `{columns_line({'prompt': names[0]})}`{others}."
        + " If both texts start with their prompt, set `format: preference` instead." * of_texts,
    )


def _may_be_prompt(name: str, rows: Sequence[Any]) -> bool:
    if no_answers(name, rows) or is_label(name, rows):
        return False
    values = [row[name] for row in rows_with(rows, name) if row[name]]
    has_usual_name = bool(values) and name.lower() in PROMPT_NAMES and all(map(is_prompt_value, values))
    return has_usual_name or has_sentences(name, rows)


def columns_line(columns: dict[str, str]) -> str:
    """The line of a recipe for a mapping of columns."""
    items = (
        f"{key}: {name if PLAIN_NAME.fullmatch(name) else json.dumps(name, ensure_ascii=not name.isprintable())}"
        for key, name in columns.items()
    )
    return f"columns: {{{', '.join(items)}}}"
