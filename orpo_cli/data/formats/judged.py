"""Judged pairs: a prompt, two completions, and a label that names the better one, or a tie."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, Literal

from orpo_cli.data.formats.format import (
    SYSTEM_COLUMNS,
    Format,
    Row,
    add_system,
    parse_number,
    read_completion,
    read_tools,
)
from orpo_cli.data.formats.prompt_columns import no_prompt, prompt_candidates
from orpo_cli.data.messages import conversation_pair, is_messages, read_messages, read_text
from orpo_cli.data.pair import Message, Pair, RowRejected
from orpo_cli.errors import DataError

Verdict = Literal["first", "second", "tie"]

COMPLETION_COLUMNS = (
    ("response_1", "response_2"), ("response_0", "response_1"), ("response1", "response2"), ("response_a", "response_b"),
    ("answer_1", "answer_2"), ("answer_0", "answer_1"), ("answer_a", "answer_b"), ("output_1", "output_2"),
    ("completion_a", "completion_b"), ("conversation_a", "conversation_b"), ("human_ref_A", "human_ref_B"),
    ("response_j", "response_k"),
)  # fmt: skip
PROMPT_COLUMNS = ("prompt", "question", "instruction", "context", "history", "input", "messages")
LABEL_COLUMNS = (
    "label", "labels", "winner", "preference", "choice", "better_response_id", "overall_preference", "preferred",
)  # fmt: skip
SIGNED_LABELS = ("overall_preference", "preference_strength")  # below 0: the first is better; above 0: the second
SCORE_STEMS = ("score", "rating")  # of columns with the score of each completion: score_a and score_b
SCORE_COLUMNS = tuple(f"{stem}_{end}" for stem in SCORE_STEMS for end in ("0", "1", "2", "a", "b"))
TIE_LABELS = {
    "tie", "tie (bothbad)", "both", "equal", "same", "draw", "neither", "none", "bothbad", "unentschieden", "gleich", "beide", "empate",
    "égalité", "平局", "平手", "一样", "一样好", "一样差", "相同", "差不多", "都好", "都不好", "都差", "无", "无偏好",
}  # fmt: skip
BETTER_FIRST = ("response_j", "response_k")  # Stack Exchange paired: j is the better one
SHOWN_LABELS = 4  # of each meaning, in reports
LABEL_REMEDY = "Say what the label means with `labels:`, as first, second or tie."
SHP = ("human_ref_A", "human_ref_B")  # label 1: A is better; 0: B is


def matches(row: Row) -> bool:
    """Whether the row has two completions under names that belong together, and a label or a score of each."""
    names = _completion_columns(row)
    if names is None or "chosen" in row or "rejected" in row:
        return False
    return names == BETTER_FIRST or _label_column(row) is not None or _score_columns(row, names) is not None


def read(row: Row, notes: Counter[str], *, labels: Mapping[str, Verdict], other_prompts: Sequence[str] = ()) -> Pair:
    """Row of a judged pair. Raises RowRejected for a tie, or where the label is not understood.

    ``other_prompts``: unused columns of the source that may be the prompt of a row without one.
    """
    names = _completion_columns(row)
    if names is None:
        raise RowRejected(
            "malformed", "no two completions under names that belong together, such as response_1 and response_2"
        )
    verdict = read_verdict(row, names, labels)
    if verdict is None:
        label = _label_column(row)
        if label is None and (columns := _score_columns(row, names)):
            values = " and ".join(f"{column} is {row[column]!r}" for column in columns)
            raise RowRejected("malformed", values, "Give each completion a score that is a number.")
        if label is None or not _is_labelled(row, label):
            raise RowRejected("no_label")
        raise RowRejected("malformed", f"{label} is {row[label]!r}", LABEL_REMEDY)
    if verdict == "tie":
        raise RowRejected("tie")
    first, second = (read_completion(row[name], name) for name in names)
    better, worse = (first, second) if verdict == "first" else (second, first)
    prompt = _prompt_column(row)
    include_prompt = len(first) > 1 or len(second) > 1  # full conversations
    if prompt is None and not include_prompt and other_prompts:
        raise no_prompt(other_prompts)
    history = () if prompt is None or include_prompt else read_messages(row[prompt], prompt, "user")
    if history and prompt == "instruction" and row.get("input"):  # Alpaca: the input follows the instruction
        history = (*history[:-1], Message("user", f"{history[-1].content}\n{read_text(row['input'], 'input')}"))
    pair = add_system(conversation_pair(history, better, worse, notes), row, notes)
    return replace(pair, tools=read_tools(row), scores=_scores_in_order(row, names, verdict))


def read_verdict(row: Row, names: tuple[str, str], labels: Mapping[str, Verdict]) -> Verdict | None:
    """Meaning of the row's label, or of its scores, for the completions in the columns ``names``; None where it is ambiguous."""
    column = _label_column(row)
    if column is None and _score_columns(row, names):
        if (scores := _scores(row, names)) is None:
            return None
        return "tie" if scores[0] == scores[1] else "first" if scores[0] > scores[1] else "second"
    if column is None:
        return "first" if names == BETTER_FIRST else None
    value = row.get(column)
    if str(value) in labels:
        return labels[str(value)]
    amount = parse_number(value)
    if amount is not None:
        return _numeric_verdict(amount, column, names)
    if not isinstance(value, str):
        return None
    label = value.strip().lower()
    if label in TIE_LABELS:
        return "tie"
    for name, which, side in zip(names, ("first", "second"), ("left", "right"), strict=True):
        if label in {
            name.lower(),
            which,
            side,  # Label Studio shows the two side by side
            *(f"{prefix}{_suffix(name)}" for prefix in ("", "model_", "response_", "answer_", "assistant_")),
        }:
            return which  # type: ignore[return-value]
    return None


def _scores_in_order(row: Row, names: tuple[str, str], verdict: Verdict) -> tuple[float, float] | None:
    """Scores of the better and the worse completion. The size of a signed label is their difference."""
    label = _label_column(row)
    if label in SIGNED_LABELS:
        strength = parse_number(row[label])
        return None if strength is None else (abs(strength), 0.0)
    scores = _scores(row, names)
    return scores[::-1] if scores is not None and verdict == "second" else scores


def _scores(row: Row, names: tuple[str, str]) -> tuple[float, float] | None:
    """Scores of the two completions; None where one of them has none."""
    if (columns := _score_columns(row, names)) is None:
        return None
    first, second = (parse_number(row[name]) for name in columns)
    return None if first is None or second is None else (first, second)


def for_rows(
    format_: Format, rows: Sequence[Any], labels: Mapping[str, Verdict], columns: Mapping[str, str], where: str
) -> Format:
    """``format_`` with the meaning of its labels and the prompt columns in use. Raises DataError where a label is ambiguous.

    ``columns``: those that were renamed, format's name → data's name. A label may be the data's name of an answer.
    """
    renamed: dict[str, Verdict] = {}
    for first, second in COMPLETION_COLUMNS:
        if first in columns and second in columns:
            renamed |= {columns[first]: "first", columns[second]: "second"}
    labels = {**renamed, **labels}
    ambiguous = {
        str(row.get(column)): (column, names)
        for row in rows
        if isinstance(row, dict) and (names := _completion_columns(row)) and (column := _label_column(row))
        if _is_labelled(row, column) and read_verdict(row, names, labels) is None
    }
    if ambiguous:
        values = sorted(ambiguous)
        column, names = ambiguous[values[0]]
        raise DataError(
            f"{where}: {column} is {', '.join(values[:5])}, which does not define which of {names[0]} and {names[1]} is better.",
            remedy=f"Define its meaning: labels: {{{', '.join(f'{value!r}: first' for value in values[:1])}, …}} "
            "with first, second or tie.",
        )
    dicts = [row for row in rows if isinstance(row, dict)]
    used = {_prompt_column(row) for row in dicts}
    used |= {"input"} if "instruction" in used else set()
    used_columns = tuple(name for name in format_.columns if name not in PROMPT_COLUMNS or name in used)
    others = prompt_candidates([row for row in dicts if _prompt_column(row) is None], format_.columns)
    choice = _describe_choice(dicts, labels, columns) or format_.choice
    return replace(
        format_, columns=used_columns, read=partial(read, labels=labels, other_prompts=others), choice=choice
    )


def _describe_choice(rows: Sequence[Row], labels: Mapping[str, Verdict], columns: Mapping[str, str]) -> str:
    """Which completion is the chosen one, by the names and labels of the data; empty where the rows differ in their columns."""
    judged = [
        (row, names, verdict)
        for row in rows
        if (names := _completion_columns(row)) and (verdict := read_verdict(row, names, labels))
    ]
    kinds = {(names, _label_column(row), _score_columns(row, names)) for row, names, _ in judged}
    if len(kinds) != 1:
        return ""
    ((names, label, scores),) = kinds
    first, second = (columns.get(name, name) for name in names)
    if label is None:
        return (
            f"the one with the higher score: {' and '.join(columns.get(name, name) for name in scores)}"
            if scores
            else first
        )
    shown = columns.get(label, label)
    if label in SIGNED_LABELS and not labels:
        return f"{first} where {shown} is below 0, {second} where it is above 0"
    found: dict[Verdict, list[str]] = {"first": [], "second": [], "tie": []}
    for row, _, verdict in judged:
        if (value := f"{row[label]!r}") not in found[verdict]:
            found[verdict].append(value)
    meanings = {first: found["first"], second: found["second"], "a tie": found["tie"]}
    return f"by {shown}: " + ", ".join(
        f"{meaning} where it is {' or '.join(sorted(values)[:SHOWN_LABELS])}"
        for meaning, values in meanings.items()
        if values
    )


def _numeric_verdict(value: float, column: str, names: tuple[str, str]) -> Verdict | None:
    if column in SIGNED_LABELS:
        return "first" if value < 0 else "second" if value > 0 else "tie"
    if names == SHP:
        return {1.0: "first", 0.0: "second"}.get(value)  # type: ignore[return-value]
    ends = [_suffix(name) for name in names]
    if not all(end.isdigit() for end in ends):
        return None
    return {float(ends[0]): "first", float(ends[1]): "second"}.get(value)  # type: ignore[return-value]


def _suffix(name: str) -> str:
    found = re.search(r"(?:_([a-z])|(\d))$", name.lower())
    return (found[1] or found[2]) if found else ""


def _score_columns(row: Row, names: tuple[str, str]) -> tuple[str, str] | None:
    """Columns with the scores of the completions in ``names``: ``score_a`` and ``score_b`` of ``response_a`` and ``response_b``."""
    found = ((f"{stem}_{_suffix(names[0])}", f"{stem}_{_suffix(names[1])}") for stem in SCORE_STEMS)
    return next((columns for columns in found if all(name in row for name in columns)), None)


def _completion_columns(row: Row) -> tuple[str, str] | None:
    def given(value: Any) -> bool:
        return isinstance(value, str) or is_messages(value)

    return next((names for names in COMPLETION_COLUMNS if all(given(row.get(name)) for name in names)), None)


def _prompt_column(row: Row) -> str | None:
    return next((name for name in PROMPT_COLUMNS if row.get(name) is not None), None)


def _is_labelled(row: Row, column: str) -> bool:
    """Whether a row has a label; tables have NaN where a value is missing."""
    value = row[column]
    return not (value is None or value == "" or (isinstance(value, float) and math.isnan(value)))


def _label_column(row: Row) -> str | None:
    return next((name for name in (*LABEL_COLUMNS, *SIGNED_LABELS) if name in row), None)


JUDGED = Format(
    "judged",
    "a prompt, two completions (response_1 and response_2, response_a and response_b, …) and a label, winner or preference, "
    "or a score of each (score_a and score_b): the higher one is chosen, equal ones are a tie; overall_preference and preference_strength "
    "below 0 prefer the first, above 0 the second, and their size is the score margin",
    tuple(
        dict.fromkeys(
            (
                *PROMPT_COLUMNS,
                *chain.from_iterable(COMPLETION_COLUMNS),
                *LABEL_COLUMNS,
                *SIGNED_LABELS,
                *SCORE_COLUMNS,
                *SYSTEM_COLUMNS,
                "tools",
            )
        )
    ),
    matches,
    partial(read, labels={}),
    choice="the answer that the label names, or else that with the higher score",
)
