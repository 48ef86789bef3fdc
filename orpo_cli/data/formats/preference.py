"""TRL's preference format: texts or messages, with the prompt explicit or within the completions.

orpo-dpo-mix, UltraFeedback binarized and cleaned, and Capybara have this format, with additional scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from orpo_cli.data.formats.format import (
    Format,
    Row,
    add_system,
    completion_columns,
    read_completion,
    read_scores,
    read_tools,
)
from orpo_cli.data.messages import conversation_pair, is_messages, read_messages, read_text
from orpo_cli.data.pair import Message, Pair, RowRejected

REPEAT_THRESHOLD = 0.9  # fraction of text rows with repeated prompts, from which a source repeats its prompts


def matches(row: Row) -> bool:
    """Whether the row has texts or messages under chosen and rejected."""
    return all(isinstance(row.get(key), str) or is_messages(row.get(key)) for key in ("chosen", "rejected"))


def read(row: Row, notes: Counter[str], *, prompt_is_repeated: bool = False) -> Pair:
    """Row of TRL's preference format."""
    chosen, rejected = completion_columns(row)
    prompt = row.get("prompt")
    if isinstance(chosen, str) and isinstance(rejected, str) and not is_messages(prompt):
        chosen, rejected = read_text(chosen, "chosen"), read_text(rejected, "rejected")
        if prompt is None:
            return replace(_split_texts(chosen, rejected), scores=read_scores(row))
        prompt = read_text(prompt, "prompt")
        if prompt_is_repeated and repeats_prompt(prompt, chosen, rejected):
            notes["prompt_stored_twice"] += 1
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
        return Pair(prompt, chosen, rejected, read_scores(row))
    completions = (read_completion(chosen, "chosen"), read_completion(rejected, "rejected"))
    if isinstance(prompt, str):
        history = _history_from_text(read_text(prompt, "prompt"), completions[0], notes)
    else:
        history = () if prompt is None else read_messages(prompt, "prompt", "user")
    pair = add_system(conversation_pair(history, *completions, notes), row.get("system"))
    return replace(pair, scores=read_scores(row), tools=read_tools(row))


def read_text_row(row: Row, notes: Counter[str], *, prompt_is_repeated: bool = False) -> Pair:
    """Row of three texts. Raises RowRejected for messages, which only a chat template can write."""
    pair = read(row, notes, prompt_is_repeated=prompt_is_repeated)
    if not isinstance(pair.prompt, str):
        raise RowRejected("malformed", "the row has messages, and the format text is for texts")
    return pair


def for_rows(format_: Format, rows: Sequence[Any]) -> Format:
    """``format_`` for a source: whether text completions repeat their prompt can be seen only over many rows."""
    keys = ("prompt", "chosen", "rejected")
    texts = [row for row in rows if isinstance(row, dict) and all(isinstance(row.get(key), str) for key in keys)]
    repeating = sum(1 for row in texts if repeats_prompt(*(row[key] for key in keys)))
    repeats = bool(texts) and repeating >= REPEAT_THRESHOLD * len(texts)
    return replace(format_, read=partial(format_.read, prompt_is_repeated=repeats))  # type: ignore[call-arg]


def repeats_prompt(prompt: str, chosen: str, rejected: str) -> bool:
    """Whether both completions start with the prompt."""
    return bool(prompt.strip()) and chosen.startswith(prompt) and rejected.startswith(prompt)


def _history_from_text(prompt: str, chosen: tuple[Message, ...], notes: Counter[str]) -> tuple[Message, ...]:
    """Messages that a text prompt adds before a conversation: none where the conversation starts with a user message."""
    users = [message.content for message in chosen[:-1] if message.role == "user"]
    if not users or chosen[0].role == "assistant":
        return (Message("user", prompt),)
    notes["prompt_stored_twice" if any(prompt.strip() in user for user in users) else "prompt_column_unused"] += 1
    return ()


def _split_texts(chosen: str, rejected: str) -> Pair:
    """Split the common start off two texts, at the last word boundary.

    One space goes to the completions, since tokenizers join it to the following word; line breaks stay in the prompt.
    """
    if chosen == rejected:
        raise RowRejected("identical")
    differing = (at for at, (left, right) in enumerate(zip(chosen, rejected, strict=False)) if left != right)
    common = next(differing, min(len(chosen), len(rejected)))
    while common and not _is_word_boundary(chosen, rejected, common):
        common -= 1
    if common and chosen[common - 1] == " ":
        common -= 1
    return Pair(chosen[:common], chosen[common:], rejected[common:], prompt_is_implicit=True)


def _is_word_boundary(chosen: str, rejected: str, at: int) -> bool:
    if chosen[at - 1].isspace():
        return True
    return all(at < len(text) and text[at].isspace() for text in (chosen, rejected))


PREFERENCE = Format(
    "preference",
    "chosen and rejected, texts or messages, with or without prompt (TRL, UltraFeedback binarized, orpo-dpo-mix, Capybara)",
    ("prompt", "chosen", "rejected", "system", "tools"),
    matches,
    read,
)
TEXT = Format(
    "text",
    "chosen and rejected texts, with or without prompt, trained as they are, without the chat template; only where `format:` names it",
    ("prompt", "chosen", "rejected", "system"),
    lambda row: False,  # rows of text are a conversation for a chat model unless the user says otherwise
    read_text_row,
)
