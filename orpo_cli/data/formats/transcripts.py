"""HH-RLHF format (Anthropic): two full transcripts."""

from __future__ import annotations

import re
from collections import Counter

from orpo_cli.data.formats.format import Format, Row, completion_columns
from orpo_cli.data.formats.preference import repeats_prompt
from orpo_cli.data.messages import conversation_pair, read_text
from orpo_cli.data.pair import Message, Pair, RowRejected

TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}


def matches(row: Row) -> bool:
    """Whether the row has transcripts with turns of both speakers under chosen and rejected."""
    texts = (row.get("chosen"), row.get("rejected"))
    if not all(isinstance(text, str) for text in texts):
        return False
    prompt = row.get("prompt") if isinstance(row.get("prompt"), str) else ""
    return all({"Human", "Assistant"} <= set(TURN.findall(f"{prompt}{text}")) for text in texts)


def read(row: Row, notes: Counter[str]) -> Pair:
    """Row of transcripts with Human: and Assistant: turns; their start may be under ``prompt``."""
    chosen, rejected = (
        read_text(text, key) for text, key in zip(completion_columns(row), ("chosen", "rejected"), strict=True)
    )
    prompt = read_text(row.get("prompt") or "", "prompt")
    if repeats_prompt(prompt, chosen, rejected):
        notes["prompt_stored_twice"] += 1
        prompt = ""
    return conversation_pair(
        (), _parse_turns(prompt + chosen, "chosen"), _parse_turns(prompt + rejected, "rejected"), notes
    )


def _parse_turns(transcript: str, column: str) -> tuple[Message, ...]:
    before, *parts = TURN.split(transcript)
    if before.strip() or not parts:
        raise RowRejected("malformed", f"{column} does not start with a Human: or Assistant: turn")
    return tuple(Message(ROLES[role], text.strip()) for role, text in zip(parts[::2], parts[1::2], strict=True))


HH = Format(
    "hh",
    "transcripts with Human: and Assistant: turns under chosen and rejected",
    ("prompt", "chosen", "rejected"),
    matches,
    read,
)
