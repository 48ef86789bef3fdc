"""Conversations with two last messages: LLaMA-Factory's ShareGPT and Alpaca with ranking, ms-swift, OpenAI."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from orpo_cli.data.formats.format import Format, Row, answer, both_answers, question, scores, tools, with_system
from orpo_cli.data.messages import conversation, is_messages, kind, read_messages, read_text
from orpo_cli.data.pair import Message, Pair, RowRejected

INSTRUCTIONS = ("instruction", "question")


def _looks_like_sharegpt(row: Row) -> bool:
    return is_messages(row.get("conversations")) and row.get("chosen") is not None and row.get("rejected") is not None


def read_sharegpt(row: Row, notes: Counter[str]) -> Pair:
    """``conversations`` of from and value, with one message each under chosen and rejected."""
    chosen, rejected = both_answers(row)
    history = with_system(read_messages(row.get("conversations"), "conversations", "user"), row.get("system"))
    pair = conversation(history, answer(chosen, "chosen"), answer(rejected, "rejected"), notes)
    return replace(pair, scores=scores(row), tools=tools(row))


def _looks_like_swift(row: Row) -> bool:
    return is_messages(row.get("messages")) and any(row.get(key) for key in ("rejected_response", "rejected_messages"))


def read_swift(row: Row, notes: Counter[str]) -> Pair:
    """``messages`` that end in the better answer; the worse one, or the whole worse conversation, beside it."""
    whole = read_messages(row.get("messages"), "messages", "user")
    if row.get("rejected_messages") is not None:
        rejected = read_messages(row["rejected_messages"], "rejected_messages", "user")
        pair = conversation((), whole, rejected, notes)
    else:
        if row.get("rejected_response") is None:
            raise RowRejected("malformed", "no rejected_response and no rejected_messages")
        pair = conversation(whole[:-1], whole[-1:], answer(row["rejected_response"], "rejected_response"), notes)
    assert not isinstance(pair.prompt, str)
    return replace(pair, prompt=with_system(pair.prompt, row.get("system")), tools=tools(row))


def _looks_like_openai(row: Row) -> bool:
    return isinstance(row.get("input"), dict) and "preferred_output" in row and "non_preferred_output" in row


def read_openai(row: Row, notes: Counter[str]) -> Pair:
    """OpenAI's preference fine-tuning: ``input.messages``, ``preferred_output``, ``non_preferred_output``."""
    asked = row.get("input")
    if not isinstance(asked, dict):
        raise RowRejected("malformed", f"input is {kind(asked)}, not an object with messages")
    preferred, other = both_answers(row, "preferred_output", "non_preferred_output")
    history = read_messages(asked.get("messages"), "input.messages", "user")
    answers = (answer(preferred, "preferred_output"), answer(other, "non_preferred_output"))
    return replace(conversation(history, *answers, notes), tools=tools(asked))


def _looks_like_alpaca(row: Row) -> bool:
    asks = any(isinstance(row.get(key), str) for key in INSTRUCTIONS) and row.get("prompt") is None
    return asks and (all(isinstance(row.get(key), str) for key in ("chosen", "rejected")) or _is_two(row.get("output")))


def _is_two(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value)


def read_alpaca(row: Row, notes: Counter[str]) -> Pair:
    """``instruction`` (or ``question``) and ``input``, earlier turns under ``history``, two answers."""
    if _is_two(row.get("output")) and row.get("chosen") is None:
        row = {**row, "chosen": row["output"][0], "rejected": row["output"][1]}
    chosen, rejected = both_answers(row)
    column = next((key for key in INSTRUCTIONS if row.get(key) is not None), INSTRUCTIONS[0])
    parts = [read_text(row.get(column), column), read_text(row.get("input") or "", "input")]
    asked = question("\n".join(part for part in parts if part), column)
    history = (*_turns(row.get("history")), *asked)
    answers = (answer(chosen, "chosen"), answer(rejected, "rejected"))
    return replace(conversation(with_system(history, row.get("system")), *answers, notes), scores=scores(row))


def _turns(history: Any) -> tuple[Message, ...]:
    """Earlier rounds: a list of [question, answer]."""
    rounds = history or []
    if not isinstance(rounds, list) or not all(_is_two(each) for each in rounds):
        raise RowRejected("malformed", "history is not a list of [question, answer]")
    roles = ("user", "assistant")
    return tuple(
        Message(role, read_text(text, "history")) for each in rounds for role, text in zip(roles, each, strict=True)
    )


SHAREGPT = Format(
    "sharegpt",
    "conversations of from and value, one message under chosen and rejected (LLaMA-Factory)",
    ("conversations", "chosen", "rejected", "system", "tools"),
    _looks_like_sharegpt,
    read_sharegpt,
)
SWIFT = Format(
    "swift",
    "messages that end in the better answer, with rejected_response or rejected_messages (ms-swift)",
    ("messages", "rejected_response", "rejected_messages", "system", "tools"),
    _looks_like_swift,
    read_swift,
)
OPENAI = Format(
    "openai",
    "input.messages with preferred_output and non_preferred_output (OpenAI's preference fine-tuning)",
    ("input", "preferred_output", "non_preferred_output"),
    _looks_like_openai,
    read_openai,
)
ALPACA = Format(
    "alpaca",
    "instruction or question, input, system and history with chosen and rejected texts (Alpaca with ranking, Orca pairs)",
    ("instruction", "question", "input", "system", "history", "chosen", "rejected", "output"),
    _looks_like_alpaca,
    read_alpaca,
)
