"""Scored completions: the best against one of the others, drawn with a seed as for the pairs of the ORPO paper."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from orpo_cli.data.formats.column_values import is_prompt_value
from orpo_cli.data.formats.column_words import RANK, SCORE
from orpo_cli.data.formats.conversations import TRANSCRIPT_TURN, parse_transcript
from orpo_cli.data.formats.format import (
    SYSTEM_COLUMNS,
    Drop,
    Format,
    GroupedRow,
    RejectedAnswers,
    Row,
    add_system,
    parse_number,
)
from orpo_cli.data.formats.row_groups import GroupRows, all_rows, consecutive_rows
from orpo_cli.data.formats.several_rejected import ANSWER_SCORE_KEYS, TEXT_KEYS
from orpo_cli.data.messages import conversation_pair, is_messages, read_messages, read_text, type_name
from orpo_cli.data.pair import Message, Pair, RowRejected
from orpo_cli.data.sources.opened import Row as NamedRow

HELPSTEER_SCORES = ("helpfulness", "correctness", "coherence")
PROMPTS = ("prompt", "instruction", "question", "query", "input")
RESPONSES = ("responses", "generations", "completions", "answers", "candidates", "all_generated_responses")
SCORES = ("scores", "ratings", "rewards", "all_rm_scores")
RANKS = ("ranks", "rankings", "ranking", "rank")
UNPAIRED_IN_STREAM = RowRejected(
    "unpaired",
    "the row before it and the row after it have other prompts",
    "Of a streamed source, only rows that follow each other form a pair: sort the rows by their prompt, or remove `streaming`.",
)


class Columns(NamedTuple):
    """Columns of a format: the prompt, and the completions, each an object with its text and score."""

    prompt: str
    completions: str
    text: str
    score: str
    sign: int = 1  # -1: a rank, of which the lowest is the best


def read(row: Row, notes: Counter[str], *, columns: Columns, seed: int = 42) -> Pair:
    """Best completion and a worse one, drawn with ``seed`` and the prompt. Raises RowRejected where none is worse."""
    prompt, (best, highest), worse = _ranked(row, columns)
    rejected, lower = random.Random(f"{seed}:{prompt}").choice(worse)
    turns = _messages(row[columns.prompt], columns), (Message("assistant", best),), (Message("assistant", rejected),)
    return replace(add_system(conversation_pair(*turns, notes), row, notes), scores=(highest, lower))


def _messages(prompt: Any, columns: Columns) -> tuple[Message, ...]:
    """Messages of a prompt, a text or messages: the turns of a Nectar transcript without the empty last one, or one user message."""
    if columns is not NECTAR_COLUMNS or not isinstance(prompt, str) or not TRANSCRIPT_TURN.match(prompt):
        return read_messages(prompt, columns.prompt, "user")
    turns = parse_transcript(prompt, columns.prompt)
    return turns[:-1] if turns[-1] == Message("assistant", "") else turns


def split_worse(row: Row, *, columns: Columns) -> RejectedAnswers:
    """Row with the best completion and each worse one alone; drawn from as ``read`` draws. Raises RowRejected as it does."""
    prompt, best, worse = _ranked(row, columns)
    rows = [
        {
            **row,
            columns.completions: [
                {columns.text: text, columns.score: columns.sign * score} for text, score in (best, each)
            ],
        }
        for each in worse
    ]
    return RejectedAnswers(rows, [score for _, score in worse], prompt)


def _ranked(row: Row, columns: Columns) -> tuple[str, tuple[str, float], list[tuple[str, float]]]:
    """Text of the prompt (JSON of messages), best completion and the worse ones, in the order of the data, each with its score."""
    completions = _scored(row.get(columns.completions), columns)
    prompt = row.get(columns.prompt)
    prompt = json.dumps(prompt, default=str) if is_messages(prompt) else read_text(prompt, columns.prompt)
    if len(completions) < 2:
        raise RowRejected("malformed", f"{len(completions)} scored completions, and a pair needs two")
    best = max(completions, key=lambda each: each[1])
    worse = [each for each in completions if each[1] < best[1]]
    if not worse:
        raise RowRejected("tie", f"all scores are {best[1]:g}")
    return prompt, best, worse


def _scored(items: Any, columns: Columns) -> list[tuple[str, float]]:
    """Text and score of the completions that have a score."""
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise RowRejected("malformed", f"{columns.completions} is {type_name(items)}, not a list of completions")
    where = f"{columns.completions}[].{columns.text}"
    found = [(read_text(item.get(columns.text), where), parse_number(item.get(columns.score))) for item in items]
    return [(text, columns.sign * score) for text, score in found if score is not None]


def matches(row: Row, *, columns: Columns) -> bool:
    """Whether the row has a prompt and scored completions under ``columns``."""
    items = row.get(columns.completions)
    if not is_prompt_value(row.get(columns.prompt)) or not isinstance(items, list) or not items:
        return False
    return isinstance(items[0], dict) and {columns.text, columns.score} <= items[0].keys()


def matches_lists(row: Row) -> bool:
    """Whether the row has a prompt and a list of responses: texts beside a list of their scores, or objects of both."""
    return "chosen" not in row and _scored_lists(row) is not None


class _ScoredLists(NamedTuple):
    """Column of the prompt, and what is in the lists of texts and scores (of ranks: negative); ``scores_of``: where the scores are."""

    prompt: str
    responses: str
    texts: list[Any]
    scores: list[Any]
    scores_of: str


def _scored_lists(row: Row) -> _ScoredLists | None:
    prompt = next((name for name in PROMPTS if is_prompt_value(row.get(name))), None)
    scores = next((name for name in (*SCORES, *RANKS) if is_list_of(row.get(name), int | float | str)), None)
    if prompt is None:
        return None
    for name in RESPONSES:
        if scores is not None and is_list_of(row.get(name), str):
            return _ScoredLists(prompt, name, row[name], _signed(row[scores], scores), scores)
        if keys := answer_keys(row.get(name)):
            texts, numbers = ([each.get(key) for each in row[name] if each is not None] for key in keys)
            return _ScoredLists(prompt, name, texts, _signed(numbers, keys[1]), name)
    return None


def _signed(numbers: list[Any], name: str) -> list[Any]:
    """``numbers`` as scores: those of a name such as ``rank`` negative, because 1 is the best."""
    if not RANK.occur_in(name):
        return numbers
    return [None if (number := parse_number(each)) is None else -number for each in numbers]


def answer_keys(value: Any) -> tuple[str, str] | None:
    """Keys of the text and the score or rank in a list of objects, such as ``text`` and ``score``; None for another value."""
    if not is_list_of(value, dict):
        return None
    shared = set.intersection(*(set(each) for each in value if each is not None))
    scores = [
        *ANSWER_SCORE_KEYS,
        *sorted(filter(SCORE.occur_in, shared)),
        *sorted(filter(RANK.occur_in, shared)),
    ]
    text, score = (next((key for key in keys if key in shared), None) for keys in (TEXT_KEYS, scores))
    return (text, score) if text and score else None


def is_list_of(value: Any, kind: Any) -> bool:
    """Whether a value is a list of this type, with at least one item; items may be missing (None)."""
    given = [each for each in value if each is not None] if isinstance(value, list) else []
    return bool(given) and all(isinstance(each, kind) for each in given)


def split_lists(row: Row) -> RejectedAnswers:
    """``split_worse`` of a row with lists of responses and scores: rows as UltraFeedback has them."""
    found = _scored_lists(row)
    if found is None:
        raise RowRejected("malformed", "no prompt with a list of responses and their scores")
    if len(found.texts) != len(found.scores):
        raise RowRejected(
            "malformed",
            f"{found.responses} has {len(found.texts)} items, and {found.scores_of} has {len(found.scores)}",
        )
    pairs = zip(found.texts, found.scores, strict=True)
    completions = [{"response": text, "overall_score": score} for text, score in pairs if text is not None]
    view = {**row, "instruction": row[found.prompt], "completions": completions}
    return split_worse(view, columns=ULTRAFEEDBACK_COLUMNS)


def group_helpsteer(rows: Iterator[NamedRow], drop: Drop, group_rows: GroupRows = all_rows) -> Iterator[GroupedRow]:
    """Join the rows with the same prompt to one row."""
    for group in group_rows(_objects(rows, drop), _shared):
        if len(group) == 1:
            drop(group[0].name, RowRejected("unpaired") if group_rows is all_rows else UNPAIRED_IN_STREAM)
        else:
            completions = [{"response": row.value.get("response"), "score": _helpfulness(row.value)} for row in group]
            name = "+".join([group[0].name, *(row.name.rpartition(":")[2] for row in group[1:])])
            yield GroupedRow(name, {**_shared(group[0]), "answers": completions}, rows=len(group))


def _objects(rows: Iterator[NamedRow], drop: Drop) -> Iterator[NamedRow]:
    for row in rows:
        if isinstance(row.value, dict):
            yield row
        else:
            drop(row.name, RowRejected("malformed", "the row is not an object with columns"))


def _shared(row: NamedRow) -> Row:
    """Columns in which rows of one prompt are equal."""
    return {name: row.value.get(name) for name in ("prompt", *SYSTEM_COLUMNS)}


def _helpfulness(row: Row) -> float | None:
    """Scores of 0 to 4 as one number: helpfulness, then the others as its decimals."""
    values = [parse_number(row.get(name)) for name in HELPSTEER_SCORES]
    if values[0] is None:
        return None
    return float(sum((value or 0) / 100**index for index, value in enumerate(values)))


ULTRAFEEDBACK_COLUMNS = Columns("instruction", "completions", "response", "overall_score")
STACKEXCHANGE_COLUMNS = Columns("question", "answers", "text", "pm_score")
NECTAR_COLUMNS = Columns("prompt", "answers", "answer", "rank", sign=-1)
HELPSTEER_COLUMNS = Columns("prompt", "answers", "response", "score")  # of a grouped row
ULTRAFEEDBACK = Format(
    "ultrafeedback",
    "instruction and completions with overall_score, the best against a seeded choice of the others (UltraFeedback raw)",
    ("instruction", "completions", *SYSTEM_COLUMNS),
    partial(matches, columns=ULTRAFEEDBACK_COLUMNS),
    partial(read, columns=ULTRAFEEDBACK_COLUMNS),
    answers=partial(split_worse, columns=ULTRAFEEDBACK_COLUMNS),
    choice="the answer with the highest score of its prompt",
)
STACKEXCHANGE = Format(
    "stackexchange",
    "question and answers with pm_score, the best against a seeded choice of the others (Stack Exchange preferences)",
    ("question", "answers", *SYSTEM_COLUMNS),
    partial(matches, columns=STACKEXCHANGE_COLUMNS),
    partial(read, columns=STACKEXCHANGE_COLUMNS),
    answers=partial(split_worse, columns=STACKEXCHANGE_COLUMNS),
    choice="the answer with the highest score of its prompt",
)
NECTAR = Format(
    "nectar",
    "prompt and answers with a rank, the best against a seeded choice of the others (Nectar)",
    ("prompt", "answers", *SYSTEM_COLUMNS),
    partial(matches, columns=NECTAR_COLUMNS),
    partial(read, columns=NECTAR_COLUMNS),
    answers=partial(split_worse, columns=NECTAR_COLUMNS),
    choice="the answer with the lowest rank of its prompt",
)
RESPONSE_LISTS = Format(
    "responses",
    "prompt or instruction, a list of responses or generations, and a list of their scores or ratings (distilabel), or of their ranks, of "
    "which 1 is the best; or a list of objects with text and score, or text and rank",
    (*PROMPTS, *RESPONSES, *SCORES, *RANKS, *SYSTEM_COLUMNS),
    matches_lists,
    partial(read, columns=ULTRAFEEDBACK_COLUMNS),
    answers=split_lists,
    choice="the answer with the highest score, or the lowest rank, of its prompt",
)
HELPSTEER = Format(
    "helpsteer",
    "prompt, response and scores, one completion per row; rows with the same prompt form a pair (HelpSteer, HelpSteer2)",
    ("prompt", "response", *HELPSTEER_SCORES, *SYSTEM_COLUMNS),
    lambda row: is_prompt_value(row.get("prompt")) and isinstance(row.get("response"), str) and "helpfulness" in row,
    partial(read, columns=HELPSTEER_COLUMNS),
    group_helpsteer,
    group_stream=partial(group_helpsteer, group_rows=consecutive_rows),
    answers=partial(split_worse, columns=HELPSTEER_COLUMNS),
    choice="the answer with the highest score of its prompt",
)
