"""Conversation formats: LLaMA-Factory's ShareGPT and Alpaca with ranking, ms-swift, OpenAI, and HH-RLHF (Anthropic)."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

from orpo_cli.data.formats.format import (
    SYSTEM_COLUMNS,
    Format,
    Row,
    add_system,
    completion_columns,
    read_completion,
    read_completions,
    read_scores,
    read_tools,
)
from orpo_cli.data.formats.preference import repeats_prompt
from orpo_cli.data.messages import conversation_pair, is_messages, read_messages, read_text, type_name
from orpo_cli.data.pair import Message, Pair, RowRejected

INSTRUCTIONS = ("instruction", "question")
TRANSCRIPT_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
TRANSCRIPT_REMEDY = "Start each transcript with a turn, or put the text before it into a system column."
TRANSCRIPT_ROLES = {"Human": "user", "Assistant": "assistant"}


def _matches_sharegpt(row: Row) -> bool:
    return is_messages(row.get("conversations")) and row.get("chosen") is not None and row.get("rejected") is not None


def read_sharegpt(row: Row, notes: Counter[str]) -> Pair:
    """Row with ``conversations`` of from and value, and one message each under chosen and rejected."""
    history = read_messages(row.get("conversations"), "conversations", "user")
    pair = add_system(conversation_pair(history, *read_completions(row), notes), row, notes)
    return replace(pair, scores=read_scores(row), tools=read_tools(row))


def _matches_swift(row: Row) -> bool:
    return is_messages(row.get("messages")) and any(row.get(key) for key in ("rejected_response", "rejected_messages"))


def read_swift(row: Row, notes: Counter[str]) -> Pair:
    """Row with ``messages`` that end in the chosen completion, and the rejected completion or conversation."""
    messages = read_messages(row.get("messages"), "messages", "user")
    if row.get("rejected_messages") is not None:
        rejected = read_messages(row["rejected_messages"], "rejected_messages", "user")
        pair = conversation_pair((), messages, rejected, notes)
    elif row.get("rejected_response") is not None:
        rejected = read_completion(row["rejected_response"], "rejected_response")
        pair = conversation_pair(messages[:-1], messages[-1:], rejected, notes)
    else:
        raise RowRejected("malformed", "no rejected_response and no rejected_messages")
    return replace(add_system(pair, row, notes), tools=read_tools(row))


def _matches_openai(row: Row) -> bool:
    return isinstance(row.get("input"), dict) and "preferred_output" in row and "non_preferred_output" in row


def read_openai(row: Row, notes: Counter[str]) -> Pair:
    """Row of OpenAI's preference fine-tuning: ``input.messages``, ``preferred_output``, ``non_preferred_output``."""
    given = row.get("input")
    if not isinstance(given, dict):
        raise RowRejected("malformed", f"input is {type_name(given)}, not an object with messages")
    history = read_messages(given.get("messages"), "input.messages", "user")
    completions = read_completions(row, "preferred_output", "non_preferred_output")
    pair = add_system(conversation_pair(history, *completions, notes), row, notes)
    return replace(pair, tools=read_tools(given) or read_tools(row))


def _matches_alpaca(row: Row) -> bool:
    has_prompt = any(isinstance(row.get(key), str) for key in INSTRUCTIONS) and row.get("prompt") is None
    return has_prompt and (
        all(isinstance(row.get(key), str) for key in ("chosen", "rejected")) or _is_text_pair(row.get("output"))
    )


def _is_text_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value)


def read_alpaca(row: Row, notes: Counter[str]) -> Pair:
    """Row with ``instruction`` (or ``question``) and ``input``, earlier turns in ``history``, and two completions."""
    if _is_text_pair(row.get("output")) and row.get("chosen") is None:
        row = {**row, "chosen": row["output"][0], "rejected": row["output"][1]}
    column = next((key for key in INSTRUCTIONS if row.get(key) is not None), INSTRUCTIONS[0])
    parts = [read_text(row.get(column), column), read_text(row.get("input") or "", "input")]
    prompt = Message("user", "\n".join(part for part in parts if part))
    history = (*parse_turns(row.get("history")), prompt)
    pair = add_system(conversation_pair(history, *read_completions(row), notes), row, notes)
    return replace(pair, scores=read_scores(row), tools=read_tools(row))


def parse_turns(history: Any) -> tuple[Message, ...]:
    """Messages of earlier turns: a list of [question, answer]."""
    turns = history or []
    if not isinstance(turns, list) or not all(_is_text_pair(each) for each in turns):
        raise RowRejected(
            "malformed", "history is not a list of [question, answer]", "Give each earlier turn as [question, answer]."
        )
    roles = ("user", "assistant")
    return tuple(
        Message(role, read_text(text, "history")) for each in turns for role, text in zip(roles, each, strict=True)
    )


def _matches_hh(row: Row) -> bool:
    texts = (row.get("chosen"), row.get("rejected"))
    if not all(isinstance(text, str) for text in texts):
        return False
    prompt = row.get("prompt") if isinstance(row.get("prompt"), str) else ""
    return all({"Human", "Assistant"} <= set(TRANSCRIPT_TURN.findall(f"{prompt}{text}")) for text in texts)


def read_hh(row: Row, notes: Counter[str]) -> Pair:
    """Row of two transcripts with Human: and Assistant: turns; their start may be under ``prompt``."""
    chosen, rejected = map(read_text, completion_columns(row), ("chosen", "rejected"))
    prompt = read_text(row.get("prompt") or "", "prompt")
    if repeats_prompt(prompt, chosen, rejected):
        notes["prompt_stored_twice"] += 1
        prompt = ""
    chosen_turns = parse_transcript(prompt + chosen, "chosen")
    pair = conversation_pair((), chosen_turns, parse_transcript(prompt + rejected, "rejected"), notes)
    return add_system(pair, row, notes)


def parse_transcript(transcript: str, column: str) -> tuple[Message, ...]:
    """Messages of a transcript with Human: and Assistant: turns. Raises RowRejected for another text."""
    before, *parts = TRANSCRIPT_TURN.split(transcript)
    if before.strip() or not parts:
        raise RowRejected("malformed", f"{column} does not start with a Human: or Assistant: turn", TRANSCRIPT_REMEDY)
    return tuple(
        Message(TRANSCRIPT_ROLES[role], text.strip()) for role, text in zip(parts[::2], parts[1::2], strict=True)
    )


SHAREGPT = Format(
    "sharegpt",
    "conversations of from and value, one message under chosen and rejected (LLaMA-Factory)",
    ("conversations", "chosen", "rejected", *SYSTEM_COLUMNS, "tools"),
    _matches_sharegpt,
    read_sharegpt,
)
SWIFT = Format(
    "swift",
    "messages that end in the chosen completion, with rejected_response or rejected_messages (ms-swift)",
    ("messages", "rejected_response", "rejected_messages", *SYSTEM_COLUMNS, "tools"),
    _matches_swift,
    read_swift,
)
OPENAI = Format(
    "openai",
    "input.messages with preferred_output and non_preferred_output (OpenAI's preference fine-tuning)",
    ("input", "preferred_output", "non_preferred_output", *SYSTEM_COLUMNS, "tools"),
    _matches_openai,
    read_openai,
)
ALPACA = Format(
    "alpaca",
    "instruction or question, input, system and history with chosen and rejected texts (Alpaca with ranking, Orca pairs)",
    ("instruction", "question", "input", *SYSTEM_COLUMNS, "history", "chosen", "rejected", "output", "tools"),
    _matches_alpaca,
    read_alpaca,
)
HH = Format(
    "hh",
    "transcripts with Human: and Assistant: turns under chosen and rejected",
    ("prompt", "chosen", "rejected", *SYSTEM_COLUMNS),
    _matches_hh,
    read_hh,
)
