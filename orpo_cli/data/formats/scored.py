"""Scored completions: the best against one of the others, drawn with a seed as for the pairs of the ORPO paper."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from orpo_cli.data.formats.format import Drop, Format, GroupedRow, NamedRow, Row, parse_number, user_prompt
from orpo_cli.data.messages import conversation_pair, read_text, type_name
from orpo_cli.data.pair import Message, Pair, RowRejected

HELPSTEER_SCORES = ("helpfulness", "correctness", "coherence")


class Scored(NamedTuple):
    """Completion and its score."""

    text: str
    score: float


def pair_from_scores(prompt: str, completions: list[Scored], seed: int, notes: Counter[str]) -> Pair:
    """Best completion and a worse one, drawn with ``seed`` and the prompt. Raises RowRejected where none is worse."""
    if len(completions) < 2:
        raise RowRejected("malformed", f"{len(completions)} scored completions, and a pair needs two")
    best = max(completions, key=lambda each: each.score)
    worse = [each for each in completions if each.score < best.score]
    if not worse:
        raise RowRejected("tie", f"all scores are {best.score:g}")
    rejected = random.Random(f"{seed}:{prompt}").choice(worse)
    texts = ((Message("assistant", best.text),), (Message("assistant", rejected.text),))
    pair = conversation_pair(user_prompt(prompt, "the prompt"), *texts, notes)
    return Pair(pair.prompt, pair.chosen, pair.rejected, (best.score, rejected.score))


def _scored(items: Any, column: str, text: str, score: str) -> list[Scored]:
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise RowRejected("malformed", f"{column} is {type_name(items)}, not a list of completions")
    found = [(read_text(item.get(text), f"{column}[].{text}"), parse_number(item.get(score))) for item in items]
    return [Scored(answer, value) for answer, value in found if value is not None]


def _has_scored(row: Row, column: str, text: str, score: str) -> bool:
    items = row.get(column)
    return isinstance(items, list) and bool(items) and isinstance(items[0], dict) and {text, score} <= items[0].keys()


def read_ultrafeedback(row: Row, notes: Counter[str], *, seed: int = 42) -> Pair:
    """Row of the original UltraFeedback: ``completions`` with ``overall_score``."""
    completions = _scored(row.get("completions"), "completions", "response", "overall_score")
    return pair_from_scores(read_text(row.get("instruction"), "instruction"), completions, seed, notes)


def read_stackexchange(row: Row, notes: Counter[str], *, seed: int = 42) -> Pair:
    """Row of Stack Exchange preferences: a ``question`` and ``answers`` with ``pm_score``."""
    completions = _scored(row.get("answers"), "answers", "text", "pm_score")
    return pair_from_scores(read_text(row.get("question"), "question"), completions, seed, notes)


def read_helpsteer(row: Row, notes: Counter[str], *, seed: int = 42) -> Pair:
    """Grouped row of HelpSteer: completions by helpfulness, then correctness, then coherence."""
    completions = _scored(row.get("answers"), "answers", "response", "score")
    return pair_from_scores(read_text(row.get("prompt"), "prompt"), completions, seed, notes)


def group_helpsteer(rows: Iterator[NamedRow], drop: Drop) -> Iterator[GroupedRow]:
    """Join consecutive rows with the same prompt to one row."""
    group: list[NamedRow] = []
    for row in rows:
        if not isinstance(row.value, dict):
            drop(row.name, RowRejected("malformed", "the row is not an object with columns"))
            continue
        if group and row.value.get("prompt") != group[0].value.get("prompt"):
            yield from _grouped(group, drop)
            group = []
        group.append(row)
    yield from _grouped(group, drop)


def _grouped(group: list[NamedRow], drop: Drop) -> Iterator[GroupedRow]:
    if len(group) == 1:
        drop(group[0].name, RowRejected("unpaired"))
    elif group:
        completions = [{"response": row.value.get("response"), "score": _helpfulness(row.value)} for row in group]
        name = f"{group[0].name}+{len(group) - 1}"
        yield GroupedRow(name, {"prompt": group[0].value.get("prompt"), "answers": completions}, rows=len(group))


def _helpfulness(row: Row) -> float | None:
    """Scores of 0 to 4 as one number: helpfulness, then the others as its decimals."""
    values = [parse_number(row.get(name)) for name in HELPSTEER_SCORES]
    if values[0] is None:
        return None
    return float(sum((value or 0) / 100**index for index, value in enumerate(values)))


ULTRAFEEDBACK = Format(
    "ultrafeedback",
    "instruction and completions with overall_score, the best against a seeded choice of the others (UltraFeedback raw)",
    ("instruction", "completions"),
    lambda row: (
        isinstance(row.get("instruction"), str) and _has_scored(row, "completions", "response", "overall_score")
    ),
    read_ultrafeedback,
)
STACKEXCHANGE = Format(
    "stackexchange",
    "question and answers with pm_score, the best against a seeded choice of the others (Stack Exchange preferences)",
    ("question", "answers"),
    lambda row: isinstance(row.get("question"), str) and _has_scored(row, "answers", "text", "pm_score"),
    read_stackexchange,
)
HELPSTEER = Format(
    "helpsteer",
    "prompt, response and scores, one completion per row; consecutive rows with the same prompt form a pair (HelpSteer, HelpSteer2)",
    ("prompt", "response", *HELPSTEER_SCORES),
    lambda row: all(isinstance(row.get(key), str) for key in ("prompt", "response")) and "helpfulness" in row,
    read_helpsteer,
    group_helpsteer,
)
