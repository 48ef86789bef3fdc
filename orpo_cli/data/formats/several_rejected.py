"""Several rejected answers of one prompt: a list in the rejected column, or numbered columns, split into rows of one answer."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

from orpo_cli.data.formats.format import SCORES, RejectedAnswers, Row, parse_number
from orpo_cli.data.json_text import parse_json_text
from orpo_cli.data.messages import is_messages
from orpo_cli.data.pair import RowRejected
from orpo_cli.data.roles import ROLES, TOOL_CALL_ROLES, normalize_role

REJECTED_COLUMNS = ("rejected", "rejected_response", "rejected_messages", "non_preferred_output")
NUMBERED_REJECTED = re.compile(r"rejected_?(\d+)")
TEXT_KEYS = ("text", "content", "response", "answer", "completion", "output", "value")
ANSWER_SCORE_KEYS = ("score", "rating", "reward")
SCORE_LISTS = {
    of_rejected + plural: of_rejected for plural in ("", "s") for _, of_rejected in SCORES
}  # column → its name of one


def split_rejected(row: Row) -> RejectedAnswers:
    """Row with each of its rejected answers alone, as formats with one rejected answer have it.

    Raises RowRejected where the list has no answer, its scores are not as many, or there are several chosen answers too.
    """
    row = _join_numbered(row)
    column = next((name for name in REJECTED_COLUMNS if row.get(name) is not None), None)
    answers = list_answers(row[column]) if column is not None else None
    if column is None or answers is None:
        return RejectedAnswers([row], [None], "")
    row, scores = _take_scores(_with_one_chosen(row), column, len(answers))
    found = [_answer(answer, score) for answer, score in zip(answers, scores, strict=True) if answer is not None]
    if not found:
        raise RowRejected("empty_rejected", f"{column} is a list without an answer")
    rows = [{**row, column: answer, **_score_columns(row, score)} for answer, score in found]
    others = {name: value for name, value in row.items() if name != column}
    key = json.dumps(others, sort_keys=True, ensure_ascii=False, default=str)
    return RejectedAnswers(rows, [score for _, score in found], key)


def text_list_columns(rows: Sequence[Any]) -> frozenset[str]:
    """Rejected columns that hold lists of answers as JSON or Python text, as csv files do, in all of the first ``rows``.

    An answer may be a JSON list, too: then chosen answers are, or the texts of some rows are none.
    """
    dicts = [row for row in rows if isinstance(row, dict)]
    if any(_list_of_text(row.get("chosen")) is not None for row in dicts):
        return frozenset()
    cells = {name: [row[name] for row in dicts if row.get(name) is not None] for name in REJECTED_COLUMNS}
    lists = {name: [_list_of_text(cell) for cell in given] for name, given in cells.items()}
    return frozenset(
        name for name, found in lists.items() if None not in found and any(len(each or ()) > 1 for each in found)
    )


def parse_text_lists(row: Any, columns: Collection[str]) -> Any:
    """Row with the texts under ``columns`` and the scores of their answers as lists, where they are lists as text."""
    if not columns or not isinstance(row, dict):
        return row
    found = {name: _list_of_text(row.get(name)) for name in columns}
    found |= {name: _list_of_text(row.get(name), kind=int | float) for name in SCORE_LISTS}
    return {**row, **{name: value for name, value in found.items() if value is not None}}


def _list_of_text(cell: Any, kind: Any = str) -> list[Any] | None:
    if not isinstance(cell, str) or not cell.lstrip().startswith("["):
        return None
    try:
        value = parse_json_text(cell)
    except ValueError:
        return None
    return value if isinstance(value, list) and value and all(isinstance(each, kind) for each in value) else None


def one_rejected(row: Row) -> Row:
    """Row with its first rejected answer alone, by which its format is detected; unchanged where it cannot be split."""
    try:
        return split_rejected(row).rows[0]
    except RowRejected:
        return row


def list_answers(value: Any) -> list[Any] | None:
    """Answers of a list of texts, conversations, objects with a text, or several assistant messages; None for one answer.

    An object with a text, which is no message, is a list of one.
    """
    if isinstance(value, dict) and not is_messages(value) and _text_key(value):
        return [value]
    if not isinstance(value, list) or not value:
        return None
    given = [each for each in value if each is not None]
    if all(isinstance(each, str) for each in given) or all(isinstance(each, list) for each in given):
        return value
    if not all(isinstance(each, dict) for each in given):
        return None
    if not any("role" in each or "from" in each for each in given):
        return value if all(_text_key(each) for each in given) else None
    return value if len(given) > 1 and all(_is_plain_answer(each) for each in given) else None


def numbered_columns(row: Row) -> list[str]:
    """Columns such as rejected_1 and rejected_2, by number."""
    found = {name: int(match[1]) for name in row if (match := NUMBERED_REJECTED.fullmatch(str(name)))}
    return sorted(found, key=lambda name: found[name])


def _join_numbered(row: Row) -> Row:
    """Row whose numbered columns are a list under ``rejected``. An empty cell is no answer: csv files have one in each row."""
    names = numbered_columns(row)
    if not names:
        return row
    first = [] if row.get("rejected") is None else [row["rejected"]]
    answers = [*first, *(row[name] for name in names if row[name] not in (None, ""))]
    others = {name: value for name, value in row.items() if name not in names}
    return (
        {**others, "rejected": [[each] if isinstance(each, dict) else each for each in answers]} if answers else others
    )


def _is_plain_answer(message: Row) -> bool:
    """Whether a message is an assistant's text. A list of two such messages has two answers: no user speaks between them."""
    role = normalize_role(message.get("role") if message.get("role") is not None else message.get("from"))
    return ROLES.get(role) == "assistant" and role not in TOOL_CALL_ROLES and not message.get("tool_calls")


def _with_one_chosen(row: Row) -> Row:
    """Row whose chosen answer is not a list of one text or object."""
    answers = list_answers(row.get("chosen"))
    if answers is None:
        return row
    if len(answers) != 1:
        raise RowRejected(
            "malformed", f"chosen is a list of {len(answers)} answers; give one, and the others under rejected"
        )
    answer, score = _answer(answers[0], None)
    return {**row, "chosen": answer, **({"score_chosen": score} if score is not None else {})}


def _take_scores(row: Row, column: str, count: int) -> tuple[Row, list[float | None]]:
    """Row without the list of scores of its rejected answers, and these scores."""
    name = next((name for name in SCORE_LISTS if isinstance(row.get(name), list)), None)
    if name is None:
        return row, [None] * count
    scores = row[name]
    if len(scores) != count:
        raise RowRejected("malformed", f"{column} has {count} answers, and {name} has {len(scores)} scores")
    chosen = next(of_chosen for of_chosen, of_rejected in SCORES if of_rejected == SCORE_LISTS[name])
    better = row.get(chosen, row.get(f"{chosen}s"))
    better = better[0] if isinstance(better, list) and len(better) == 1 else better
    others = {key: value for key, value in row.items() if key not in (name, chosen)}
    return {**others, "score_chosen": better}, [parse_number(score) for score in scores]


def _answer(value: Any, score: float | None) -> tuple[Any, float | None]:
    """Answer and score of an item: an object with a text gives both."""
    key = _text_key(value) if isinstance(value, dict) and not is_messages(value) else None
    if key is None:
        return value, score
    own = next((found for name in ANSWER_SCORE_KEYS if (found := parse_number(value.get(name))) is not None), None)
    return value[key], own if own is not None else score


def _text_key(value: Row) -> str | None:
    return next((key for key in TEXT_KEYS if isinstance(value.get(key), str)), None)


def _score_columns(row: Row, score: float | None) -> Row:
    return {} if score is None else {"score_chosen": row.get("score_chosen"), "score_rejected": score}
