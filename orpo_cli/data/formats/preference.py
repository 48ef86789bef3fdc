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
    SYSTEM_COLUMNS,
    Format,
    Row,
    add_system,
    completion_columns,
    read_completion,
    read_scores,
    read_system,
    read_tools,
)
from orpo_cli.data.formats.prompt_columns import no_prompt, prompt_candidates
from orpo_cli.data.messages import conversation_pair, is_messages, read_messages, read_text
from orpo_cli.data.pair import Message, Pair, RowRejected
from orpo_cli.data.roles import ROLES, normalize_role

REPEAT_THRESHOLD = 0.9  # fraction of text rows with repeated prompts, from which a source repeats its prompts


def matches(row: Row) -> bool:
    """Whether the row has texts or messages under chosen and rejected."""
    return all(isinstance(row.get(key), str) or is_messages(row.get(key)) for key in ("chosen", "rejected"))


def read(
    row: Row,
    notes: Counter[str],
    *,
    prompt_is_repeated: bool = False,
    other_prompts: Sequence[str] = (),
    implicit_prompts: bool = True,
) -> Pair:
    """Row of TRL's preference format.

    ``other_prompts``: unused columns of the source that may be the prompt of a row without one; ``implicit_prompts``: whether
    the common start of two texts may be its prompt.
    """
    chosen, rejected = completion_columns(row)
    prompt = _prompt_of(row, chosen)
    if isinstance(chosen, str) and isinstance(rejected, str) and not is_messages(prompt):
        chosen, rejected = read_text(chosen, "chosen"), read_text(rejected, "rejected")
        columns: dict[str, Any] = {"scores": read_scores(row), "tools": read_tools(row), "system": read_system(row)}
        if prompt is None:
            if not implicit_prompts:
                raise no_prompt(other_prompts, of_texts=True)
            return replace(_split_texts(chosen, rejected), **columns)
        prompt = read_text(prompt, "prompt")
        if prompt_is_repeated and repeats_prompt(prompt, chosen, rejected):
            notes["prompt_stored_twice"] += 1
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
        return replace(Pair(prompt, chosen, rejected), **columns)
    completions = (read_completion(chosen, "chosen"), read_completion(rejected, "rejected"))
    if isinstance(prompt, str):
        history = _history_from_text(read_text(prompt, "prompt"), completions[0], notes)
    else:
        history = () if prompt is None else read_messages(prompt, "prompt", "user")
    pair = add_system(conversation_pair(history, *completions, notes), row, notes)
    if not pair.prompt and other_prompts:
        raise no_prompt(other_prompts)
    scores, tools = read_scores(row), read_tools(row)
    return pair if scores is None and tools is None else replace(pair, scores=scores, tools=tools)


def read_text_row(row: Row, notes: Counter[str], **options: Any) -> Pair:
    """Row of three texts. Raises RowRejected for messages, which only a chat template can write."""
    pair = read(row, notes, **options)
    if not isinstance(pair.prompt, str):
        remedy = "Give texts under prompt, chosen and rejected, or remove `format: text` if a recipe sets it."
        raise RowRejected("malformed", "the row has messages, and the format text is for texts", remedy)
    return pair


def for_rows(format_: Format, rows: Sequence[Any], *, implicit_prompts: bool = False) -> Format:
    """``format_`` for a source: which columns have the prompt, and whether texts repeat it, can be seen only over many rows."""
    keys = ("prompt", "chosen", "rejected")
    texts = [row for row in rows if isinstance(row, dict) and all(isinstance(row.get(key), str) for key in keys)]
    repeating = sum(1 for row in texts if repeats_prompt(*(row[key] for key in keys)))
    repeats = bool(texts) and repeating >= REPEAT_THRESHOLD * len(texts)
    dicts = [row for row in rows if isinstance(row, dict)]
    uses_messages = any(_messages_before(row, row.get("chosen")) for row in dicts)
    columns = tuple(name for name in format_.columns if name != "messages" or uses_messages)
    without_prompt = [row for row in dicts if row.get("prompt") is None]
    has_text = any(
        isinstance(row.get("messages"), str) for row in without_prompt
    )  # a prompt with the name of a conversation
    others = prompt_candidates(without_prompt, [name for name in format_.columns if name != "messages" or not has_text])
    most_have_prompts = len(without_prompt) < len(dicts) / 2
    options = {
        "prompt_is_repeated": repeats,
        "other_prompts": others,
        "implicit_prompts": implicit_prompts or not (others or most_have_prompts),
    }
    return replace(format_, columns=columns, read=partial(format_.read, **options))


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


def _prompt_of(row: Row, chosen: Any) -> Any:
    """Prompt of a row: its prompt column, or the messages before ``chosen``, without it where they repeat it."""
    messages = _messages_before(row, chosen)
    if messages is None:
        return row.get("prompt")
    read_messages(messages, "messages", "user")  # an error names the position in the whole list
    ends_in_chosen = read_messages(messages[-1:], "messages", "user") == read_completion(chosen, "chosen")
    return messages[:-1] if ends_in_chosen else messages


def _messages_before(row: Row, chosen: Any) -> list[Any] | None:
    """Messages of a row without a prompt, whose completions are answers and not conversations (axolotl)."""
    messages = row.get("messages")
    is_used = not row.get("prompt") and isinstance(messages, list) and bool(messages) and is_messages(messages)
    return messages if is_used and not _has_user(chosen) else None


def _has_user(value: Any) -> bool:
    """Whether a completion is a conversation, with its own prompt."""
    return isinstance(value, list) and any(ROLES.get(_role(item)) == "user" for item in value)


def _role(message: Any) -> str:
    role = message.get("role") if message.get("role") is not None else message.get("from")
    return normalize_role(role)


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
    ("prompt", "messages", "chosen", "rejected", *SYSTEM_COLUMNS, "tools"),
    matches,
    read,
)
TEXT = Format(
    "text",
    "chosen and rejected texts, with or without prompt, trained as they are, without the chat template; only where `format:` names it",
    ("prompt", "chosen", "rejected", *SYSTEM_COLUMNS),
    lambda row: False,  # rows of text are a conversation for a chat model unless the user says otherwise
    read_text_row,
)
