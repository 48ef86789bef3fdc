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
    name_words,
    no_answers,
    rows_with,
)
from orpo_cli.data.pair import RowRejected

PROMPT_NAMES = (
    "prompt", "instruction", "question", "query", "input", "inputs", "messages", "conversation", "conversations", "dialogue",
    "dialog", "history", "context", "user", "human", "request", "problem", "task", "post", "text", "user_prompt", "prompt_text",
    "问题", "提问", "提示", "提示词", "指令", "输入",
)  # fmt: skip
PROMPT_WORDS = {
    "prompt",
    "question",
    "instruction",
    "query",
    "input",
    "user",
    "customer",
}  # of a longer name, such as user_question
CHOSEN_WORDS = {
    "chosen",
    "preferred",
    "accepted",
    "better",
    "best",
    "good",
    "win",
    "winner",
    "winning",
    "positive",
    "pos",
    "gut", "gute", "guter", "gutes", "bessere", "besser", "buena", "bueno", "mejor", "bonne", "bon", "meilleure", "meilleur",
    *"好优佳选",  # good, excellent, fine, chosen
}  # fmt: skip
REJECTED_WORDS = {
    "rejected",
    "dispreferred",
    "worse",
    "worst",
    "bad",
    "lose",
    "loser",
    "losing",
    "negative",
    "neg",
    "wrong", "incorrect", "schlecht", "schlechte", "schlechter", "schlechtes", "schlechtere", "mala", "malo", "peor", "mauvaise", "mauvais",
    "pire", *"差坏劣拒",
}  # fmt: skip
CHINESE_CHOSEN_WORDS, CHINESE_REJECTED_WORDS = ("正例", "正样本"), ("负例", "负样本")
RESPONSE_WORDS = {"response", "answer", "completion", "reply", "output", "generation", "assistant", "bot"}
CHINESE_PROMPT_WORDS = (
    "问题",
    "提问",
    "提示",
    "指令",
    "输入",
)  # parts of a name, since Chinese writes no spaces: 用户提问
CHINESE_RESPONSE_WORDS = ("回答", "答案", "回复", "答复", "应答", "输出")
PLAIN_NAME = re.compile(r"[A-Za-z_][\w.-]*")  # a YAML scalar that needs no quotes


def prompt_candidates(rows: Sequence[Any], used: Collection[str]) -> list[str]:
    """Columns that may be the prompt and that are not in ``used``: those with a usual name first.

    A column of another name is one where its values are texts of several words that differ between the rows, or messages.
    """
    found = [
        name
        for name in column_names(rows)
        if name not in used and not name_words(name) & (CHOSEN_WORDS | REJECTED_WORDS) and _may_be_prompt(name, rows)
    ]
    return sorted(found, key=prompt_rank)


def is_prompt_name(name: str) -> bool:
    """Whether a column has a usual name of the prompt."""
    return prompt_rank(name) <= len(PROMPT_NAMES)


def prompt_rank(name: str) -> int:
    """Place among the usual names; after them a name that contains such a word, then all others."""
    if name.lower() in PROMPT_NAMES:
        return PROMPT_NAMES.index(name.lower())
    words, chinese = name_words(name), any(word in name for word in CHINESE_PROMPT_WORDS)
    return len(PROMPT_NAMES) + (not ((words & PROMPT_WORDS or chinese) and not names_response(name)))


def names_response(name: str) -> bool:
    """Whether the name of a column has a word for an answer in it."""
    return bool(name_words(name) & RESPONSE_WORDS) or any(word in name for word in CHINESE_RESPONSE_WORDS)


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
