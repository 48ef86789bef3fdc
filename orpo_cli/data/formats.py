"""The formats of preference data: recognised by looking at rows, and read into ``Pair``.

A conversation is never cut by characters: the prompt is everything before the last message, and both answers must follow the
same one. Where a row holds the prompt twice (in ``prompt`` and again at the start of the answers) it is trained once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from orpo_cli.data.messages import conversation, is_messages, kind, read_messages, read_text
from orpo_cli.data.pair import Message, Misfit, Pair
from orpo_cli.errors import DataError

COLUMNS = ("prompt", "chosen", "rejected", "conversations", "system")  # our names, which `columns:` maps from
HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
HH_ROLES = {"Human": "user", "Assistant": "assistant"}
REPEATED = 0.9  # share of text rows whose answers begin with the prompt from which on that is taken for repetition

Row = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """A shape that rows come in. ``read`` raises Misfit for a row that does not fit, and counts what it put right."""

    name: str
    description: str
    uses: tuple[str, ...]
    looks_like: Callable[[Row], bool]
    read: Callable[[Row, Counter[str]], Pair]


def recognise(rows: Sequence[Any], wanted: str = "auto", where: str = "the data") -> Format:
    """The format that most of ``rows`` (the first of a source) look like, or the one named by ``wanted``.

    Raises DataError where no row looks like any, listing the columns found, or where the name is unknown.
    """
    known = {format_.name: format_ for format_ in FORMATS}
    if wanted != "auto":
        if wanted not in known:
            raise DataError(f"{where}: unknown format {wanted!r}.", remedy=f"Use auto, {', '.join(known)}.")
        return _settled(known[wanted], rows)
    looks = Counter(_first_that_fits(row) for row in rows)
    del looks[None]
    if not looks:
        raise DataError(
            f"{where}: no row looks like preference data; {columns_found(rows)}.",
            remedy=f"Map your columns to {', '.join(COLUMNS[:3])} with `columns:`, or reshape the rows. Known formats: "
            + "; ".join(f"{format_.name} ({format_.description})" for format_ in FORMATS)
            + ".",
        )
    return _settled(known[str(looks.most_common(1)[0][0])], rows)


def columns_found(rows: Sequence[Any]) -> str:
    """What the rows hold, in words, for an error."""
    kinds: dict[str, str] = {}
    for row in rows:
        for name, value in row.items() if isinstance(row, dict) else ():
            kinds.setdefault(str(name), kind(value))
    found = ", ".join(f"{name} ({what})" for name, what in kinds.items())
    return f"the columns are {found}" if found else "the rows are not objects with columns"


def rename(row: Any, columns: dict[str, str]) -> Any:
    """The row with ``columns`` (our name → the data's) applied; what is not a dict stays as it is."""
    if not columns or not isinstance(row, dict):
        return row
    taken = set(columns.values())
    renamed = {key: value for key, value in row.items() if key not in taken and key not in columns}
    return {**renamed, **{ours: row[theirs] for ours, theirs in columns.items() if theirs in row}}


def _first_that_fits(row: Any) -> str | None:
    if not isinstance(row, dict):
        return None
    return next((format_.name for format_ in FORMATS if format_.looks_like(row)), None)


def _settled(format_: Format, rows: Sequence[Any]) -> Format:
    """``format_`` as these rows use it: whether text answers repeat their prompt shows only over many rows."""
    if format_.name != "preference":
        return format_
    texts = [row for row in rows if isinstance(row, dict) and all(isinstance(row.get(key), str) for key in COLUMNS[:3])]
    repeating = sum(1 for row in texts if _answers_repeat(row["prompt"], row["chosen"], row["rejected"]))
    repeats = bool(texts) and repeating >= REPEATED * len(texts)
    return replace(format_, read=partial(read_preference, answers_repeat_prompt=repeats))


def _answers_repeat(prompt: str, chosen: str, rejected: str) -> bool:
    return bool(prompt.strip()) and chosen.startswith(prompt) and rejected.startswith(prompt)


def _answers(row: Row) -> tuple[Any, Any]:
    missing = [key for key in ("chosen", "rejected") if row.get(key) is None]
    if missing:
        raise Misfit("malformed", f"no {' and no '.join(missing)}")
    return row["chosen"], row["rejected"]


# preference: TRL's, standard (texts) and conversational, the prompt explicit or within the answers


def _looks_like_preference(row: Row) -> bool:
    return all(isinstance(row.get(key), str) or is_messages(row.get(key)) for key in ("chosen", "rejected"))


def read_preference(row: Row, notes: Counter[str], *, answers_repeat_prompt: bool = False) -> Pair:
    """A row of TRL's preference format."""
    chosen, rejected = _answers(row)
    prompt = row.get("prompt")
    if isinstance(chosen, str) and isinstance(rejected, str) and not is_messages(prompt):
        chosen, rejected = read_text(chosen, "chosen"), read_text(rejected, "rejected")
        if prompt is None:
            return _split_texts(chosen, rejected)
        prompt = read_text(prompt, "prompt")
        if answers_repeat_prompt and _answers_repeat(prompt, chosen, rejected):
            notes["prompt_stored_twice"] += 1
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
        return Pair(prompt, chosen, rejected)
    answers = (read_messages(chosen, "chosen", "assistant"), read_messages(rejected, "rejected", "assistant"))
    if isinstance(prompt, str):
        return conversation(_string_history(read_text(prompt, "prompt"), answers[0], notes), *answers, notes)
    return conversation(() if prompt is None else read_messages(prompt, "prompt", "user"), *answers, notes)


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
        raise Misfit("identical")
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


# sharegpt: `conversations` of from and value, with one message each under chosen and rejected


def _looks_like_sharegpt(row: Row) -> bool:
    return is_messages(row.get("conversations")) and row.get("chosen") is not None and row.get("rejected") is not None


def read_sharegpt(row: Row, notes: Counter[str]) -> Pair:
    """A row of LLaMA-Factory's ShareGPT format with ranking."""
    chosen, rejected = _answers(row)
    history = read_messages(row.get("conversations"), "conversations", "user")
    system = read_text(row.get("system") or "", "system")
    if system.strip() and (not history or history[0].role != "system"):
        history = (Message("system", system), *history)
    answers = (read_messages(chosen, "chosen", "assistant"), read_messages(rejected, "rejected", "assistant"))
    return conversation(history, *answers, notes)


# hh: two whole transcripts


def _looks_like_hh(row: Row) -> bool:
    texts = (row.get("chosen"), row.get("rejected"))
    if not all(isinstance(text, str) for text in texts):
        return False
    prompt = row.get("prompt") if isinstance(row.get("prompt"), str) else ""
    return all({"Human", "Assistant"} <= set(HH_TURN.findall(f"{prompt}{text}")) for text in texts)


def read_hh(row: Row, notes: Counter[str]) -> Pair:
    """A row of Anthropic's HH-RLHF: transcripts marked Human: and Assistant:, or their beginning under ``prompt``."""
    chosen, rejected = (read_text(text, key) for text, key in zip(_answers(row), ("chosen", "rejected"), strict=True))
    prompt = read_text(row.get("prompt") or "", "prompt")
    if _answers_repeat(prompt, chosen, rejected):
        notes["prompt_stored_twice"] += 1
        prompt = ""
    return conversation((), _turns(prompt + chosen, "chosen"), _turns(prompt + rejected, "rejected"), notes)


def _turns(transcript: str, column: str) -> tuple[Message, ...]:
    before, *parts = HH_TURN.split(transcript)
    if before.strip() or not parts:
        raise Misfit("malformed", f"{column} does not begin with a Human: or Assistant: turn")
    return tuple(Message(HH_ROLES[role], text.strip()) for role, text in zip(parts[::2], parts[1::2], strict=True))


FORMATS = (
    Format(
        "hh",
        "transcripts with Human: and Assistant: turns under chosen and rejected",
        COLUMNS[:3],
        _looks_like_hh,
        read_hh,
    ),
    Format(
        "sharegpt",
        "conversations of from and value, one message under chosen and rejected",
        ("conversations", "chosen", "rejected", "system"),
        _looks_like_sharegpt,
        read_sharegpt,
    ),
    Format(
        "preference",
        "chosen and rejected, texts or messages, with or without prompt",
        COLUMNS[:3],
        _looks_like_preference,
        read_preference,
    ),
)
