"""TRL's preference formats: texts or messages, the prompt explicit or within the answers.

orpo-dpo-mix, UltraFeedback binarized and cleaned, and Capybara come in this shape, with scores beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from orpo_cli.data.formats.format import Format, Row, answer, both_answers, scores, tools, with_system
from orpo_cli.data.messages import conversation, is_messages, read_messages, read_text
from orpo_cli.data.pair import Message, Pair, RowRejected

REPEATED = 0.9  # share of text rows whose answers begin with the prompt from which on that is taken for repetition


def looks_like(row: Row) -> bool:
    """Texts or messages under chosen and rejected."""
    return all(isinstance(row.get(key), str) or is_messages(row.get(key)) for key in ("chosen", "rejected"))


def read(row: Row, notes: Counter[str], *, answers_repeat_prompt: bool = False) -> Pair:
    """A row of TRL's preference format."""
    chosen, rejected = both_answers(row)
    prompt = row.get("prompt")
    if isinstance(chosen, str) and isinstance(rejected, str) and not is_messages(prompt):
        chosen, rejected = read_text(chosen, "chosen"), read_text(rejected, "rejected")
        if prompt is None:
            return replace(_split_texts(chosen, rejected), scores=scores(row))
        prompt = read_text(prompt, "prompt")
        if answers_repeat_prompt and answers_repeat(prompt, chosen, rejected):
            notes["prompt_stored_twice"] += 1
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
        return Pair(prompt, chosen, rejected, scores(row))
    answers = (answer(chosen, "chosen"), answer(rejected, "rejected"))
    if isinstance(prompt, str):
        history = _string_history(read_text(prompt, "prompt"), answers[0], notes)
    else:
        history = () if prompt is None else read_messages(prompt, "prompt", "user")
    pair = conversation(history, *answers, notes)
    prompt = with_system(pair.prompt, row.get("system"))  # type: ignore[arg-type]
    return replace(pair, prompt=prompt, scores=scores(row), tools=tools(row))


def as_these_rows_use_it(format_: Format, rows: Sequence[Any]) -> Format:
    """``format_`` for a source: whether text answers repeat their prompt shows only over many rows."""
    keys = ("prompt", "chosen", "rejected")
    texts = [row for row in rows if isinstance(row, dict) and all(isinstance(row.get(key), str) for key in keys)]
    repeating = sum(1 for row in texts if answers_repeat(*(row[key] for key in keys)))
    repeats = bool(texts) and repeating >= REPEATED * len(texts)
    return replace(format_, read=partial(read, answers_repeat_prompt=repeats))


def answers_repeat(prompt: str, chosen: str, rejected: str) -> bool:
    """Whether both answers begin with the prompt."""
    return bool(prompt.strip()) and chosen.startswith(prompt) and rejected.startswith(prompt)


def _string_history(prompt: str, chosen: tuple[Message, ...], notes: Counter[str]) -> tuple[Message, ...]:
    """What a text prompt adds in front of a conversation: nothing where the conversation has its own user turn."""
    users = [message.content for message in chosen[:-1] if message.role == "user"]
    if not users:
        return (Message("user", prompt),)
    notes["prompt_stored_twice" if any(prompt.strip() in user for user in users) else "prompt_column_unused"] += 1
    return ()


def _split_texts(chosen: str, rejected: str) -> Pair:
    """Cut the shared beginning off two texts, at the last border between words.

    One space goes to the answers, as tokenizers join it to the word after it; line breaks stay in the prompt.
    """
    if chosen == rejected:
        raise RowRejected("identical")
    differing = (at for at, (left, right) in enumerate(zip(chosen, rejected, strict=False)) if left != right)
    shared = next(differing, min(len(chosen), len(rejected)))
    while shared and not _is_border(chosen, rejected, shared):
        shared -= 1
    if shared and chosen[shared - 1] == " ":
        shared -= 1
    return Pair(chosen[:shared], chosen[shared:], rejected[shared:])


def _is_border(chosen: str, rejected: str, at: int) -> bool:
    if chosen[at - 1].isspace():
        return True
    return all(at < len(text) and text[at].isspace() for text in (chosen, rejected))


PREFERENCE = Format(
    "preference",
    "chosen and rejected, texts or messages, with or without prompt (TRL, UltraFeedback binarized, orpo-dpo-mix, Capybara)",
    ("prompt", "chosen", "rejected", "system", "tools"),
    looks_like,
    read,
)
