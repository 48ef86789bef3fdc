"""Column proposals: the `columns:` mapping that an error message proposes for text columns which no format uses."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import combinations
from typing import Any

from orpo_cli.data.formats.judged import LABEL_COLUMNS, SIGNED_LABELS, TIE_LABELS, read_verdict
from orpo_cli.data.messages import is_messages
from orpo_cli.data.pair import RowRejected

PROMPT_NAMES = (
    "prompt", "instruction", "question", "query", "input", "inputs", "messages", "conversation", "conversations", "dialogue",
    "dialog", "history", "context", "user", "human", "request", "problem", "task", "post", "text", "user_prompt", "prompt_text",
    "问题", "提问", "提示", "提示词", "指令", "输入",
)  # fmt: skip
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
    *"好优佳选",  # good, excellent, fine, chosen
}
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
    *"差坏劣拒",
}
NEGATIONS = {"non", "not", "un", "less", "unpreferred", *"不非未"}
JUDGED_NAMES = {  # ends of two columns' names → their names in the format judged, whose labels refer to the ends
    ("a", "b"): ("response_a", "response_b"),
    ("1", "2"): ("response_1", "response_2"),
    ("0", "1"): ("response_0", "response_1"),
}
PLAIN_NAME = re.compile(r"[A-Za-z_][\w.-]*")  # a YAML scalar that needs no quotes
SEVERAL_WORDS = re.compile(r"\S\s+\S|[\u3040-\u30ff\u3400-\u9fff]{4}")  # Chinese and Japanese write no spaces
PROMPT_FRACTION = 0.5  # of the values: from here on they have several words, and differ, as prompts do


def prompt_candidates(rows: Sequence[Any], used: Collection[str]) -> list[str]:
    """Columns that may be the prompt and that are not in ``used``: those with a usual name first.

    A column of another name is one where its values are texts of several words that differ between the rows, or messages.
    """
    found = [
        name
        for name in _names(rows)
        if name not in used and not _words(name) & (CHOSEN_WORDS | REJECTED_WORDS) and _may_be_prompt(name, rows)
    ]
    return sorted(found, key=_prompt_rank)


def is_prompt_name(name: str) -> bool:
    """Whether a column has a usual name of the prompt."""
    return _prompt_rank(name) < len(PROMPT_NAMES)


def _prompt_rank(name: str) -> int:
    return PROMPT_NAMES.index(name.lower()) if name.lower() in PROMPT_NAMES else len(PROMPT_NAMES)


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


def propose_columns(rows: Sequence[Any]) -> dict[str, str] | None:
    """Mapping (format's name → data's name) for rows without a known format.

    None where no two columns are named as a better and a worse answer, or belong together beside a label of the better one.
    """
    if judged := _propose_judged(rows):
        return judged
    texts = [name for name in _names(rows) if any(_is_prompt_value(row[name]) for row in _having(rows, name))]
    worse = [name for name in texts if _words(name) & REJECTED_WORDS or _words(name) & NEGATIONS]
    better = [name for name in texts if name not in worse and _words(name) & CHOSEN_WORDS]
    if not better or not worse:
        return None
    prompts = prompt_candidates(rows, (*better, *worse))
    return {**({"prompt": prompts[0]} if prompts else {}), "chosen": better[0], "rejected": worse[0]}


def _propose_judged(rows: Sequence[Any]) -> dict[str, str] | None:
    """Mapping for two answers, with a column that names the better one: ``model_a`` and ``model_b`` with ``winner``."""
    names = _names(rows)
    for first, second in combinations(filter(partial(_has_sentences, rows=rows), names), 2):
        has_ends = first[:-1] == second[:-1]
        targets = JUDGED_NAMES.get((first[-1:].lower(), second[-1:].lower())) if has_ends else None
        others = [name for name in names if name not in (first, second)]
        known = [name for name in others if name in (*LABEL_COLUMNS, *SIGNED_LABELS) and targets]
        labels = known or [name for name in others if _is_verdict(name, (first, second), targets, rows)]
        if not labels:
            continue
        prompts = prompt_candidates(rows, (first, second, labels[0]))
        return {
            **({"prompt": prompts[0]} if prompts else {}),
            **dict(zip(targets or JUDGED_NAMES["a", "b"], (first, second), strict=True)),
            **({"winner": labels[0]} if labels[0] not in (*LABEL_COLUMNS, *SIGNED_LABELS) else {}),
        }
    return None


def _is_verdict(column: str, answers: tuple[str, str], targets: tuple[str, str] | None, rows: Sequence[Any]) -> bool:
    """Whether every value of a column is a text that names one of two columns as the better answer, or a tie.

    ``targets``: the names that the format has for them; a value may refer to these, too: ``A`` and ``model_a`` to ``response_a``.
    """
    values = {row[column] for row in _having(rows, column) if isinstance(row[column], str)}
    verdicts = {
        value: "named" if value in answers else targets and read_verdict({"winner": value}, targets, {})
        for value in values
        if value.strip().lower() not in TIE_LABELS and not value.strip().isdigit()
    }
    return (
        bool(verdicts) and all(verdicts.values()) and all(isinstance(row[column], str) for row in _having(rows, column))
    )


def example_columns(rows: Sequence[Any]) -> str | None:
    """`columns:` as an example: the first three columns of texts, or two, in the order of the data; None where one is no answer.

    Columns of one word, such as names and numbers, only where there are no others.
    """
    texts = [name for name in _names(rows) if all(isinstance(row[name], str) for row in _having(rows, name))]
    if len(sentences := [name for name in texts if _has_sentences(name, rows)]) > 1:
        texts = sentences
    prompts = [name for name in texts if is_prompt_name(name)][:1] or (texts[:1] if len(texts) > 2 else [])
    answers = [name for name in texts if name not in prompts]
    if len(answers) < 2:
        return None
    return columns_line({**({"prompt": prompts[0]} if prompts else {}), "chosen": answers[0], "rejected": answers[1]})


def _may_be_prompt(name: str, rows: Sequence[Any]) -> bool:
    values = [row[name] for row in _having(rows, name) if row[name]]
    has_usual_name = bool(values) and name.lower() in PROMPT_NAMES and all(map(_is_prompt_value, values))
    return has_usual_name or _has_sentences(name, rows)


def _has_sentences(name: str, rows: Sequence[Any]) -> bool:
    """Whether most values of a column are messages, or texts of several words that differ between the rows."""
    values = [row[name] for row in _having(rows, name) if row[name]]
    if not values or not all(_is_prompt_value(value) for value in values):
        return False
    if not all(isinstance(value, str) for value in values):
        return True
    of_words = sum(SEVERAL_WORDS.search(value) is not None for value in values)
    return of_words > PROMPT_FRACTION * len(values) and len(set(values)) > PROMPT_FRACTION * len(values)


def _is_prompt_value(value: Any) -> bool:
    return isinstance(value, str) or (bool(value) and is_messages(value))


def _names(rows: Sequence[Any]) -> list[str]:
    return list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row if isinstance(name, str)))


def _having(rows: Sequence[Any], name: str) -> Iterator[dict[str, Any]]:
    return (row for row in rows if isinstance(row, dict) and row.get(name) is not None)


def _words(name: str) -> set[str]:
    """English words, and Chinese characters."""
    return set(re.findall(r"[a-z]+|[\u4e00-\u9fff]", name.lower()))


def columns_line(columns: dict[str, str]) -> str:
    """The line of a recipe for a mapping of columns."""
    items = (
        f"{key}: {name if PLAIN_NAME.fullmatch(name) else json.dumps(name, ensure_ascii=not name.isprintable())}"
        for key, name in columns.items()
    )
    return f"columns: {{{', '.join(items)}}}"
