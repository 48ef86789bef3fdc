"""Format detection, and the mapping of a source's columns to the names of the formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from orpo_cli.data.formats import judged, preference
from orpo_cli.data.formats.column_proposals import columns_to_complete, propose_columns, propose_labelled, propose_rated
from orpo_cli.data.formats.column_words import RANK
from orpo_cli.data.formats.conversations import ALPACA, HH, OPENAI, SHAREGPT, SWIFT
from orpo_cli.data.formats.format import SCORES, Format, Row
from orpo_cli.data.formats.judged import JUDGED, Verdict
from orpo_cli.data.formats.kto import KTO
from orpo_cli.data.formats.preference import PREFERENCE, TEXT
from orpo_cli.data.formats.prompt_columns import columns_line
from orpo_cli.data.formats.scored import HELPSTEER, NECTAR, RESPONSE_LISTS, STACKEXCHANGE, ULTRAFEEDBACK
from orpo_cli.data.formats.scored import SCORES as LISTED_SCORES
from orpo_cli.data.formats.several_rejected import one_rejected
from orpo_cli.data.formats.trees import OASST
from orpo_cli.data.formats.turns import TURNS
from orpo_cli.data.messages import type_name
from orpo_cli.data.pair_weight import WEIGHT_COLUMN
from orpo_cli.errors import DOCS, DataError

# The first one that matches a row is its format.
FORMATS = (
    OASST, TURNS, HH, OPENAI, SWIFT, SHAREGPT, ALPACA, ULTRAFEEDBACK, STACKEXCHANGE, NECTAR, RESPONSE_LISTS, HELPSTEER, JUDGED,
    KTO, PREFERENCE, TEXT,
)  # fmt: skip
SEEDED_FORMATS = (ULTRAFEEDBACK, STACKEXCHANGE, NECTAR, RESPONSE_LISTS, HELPSTEER)
SCORE_COLUMNS = tuple(name for names in SCORES for name in names)
COLUMNS = tuple(
    dict.fromkeys([*(name for format_ in FORMATS for name in format_.columns), *SCORE_COLUMNS, WEIGHT_COLUMN])
)  # names that `columns:` can map to


def detect_format(
    rows: Sequence[Any],
    wanted: str = "auto",
    where: str = "the data",
    *,
    labels: Mapping[str, Verdict] | None = None,
    columns: Mapping[str, str] | None = None,
    seed: int = 42,
) -> Format:
    """Format that most of ``rows`` (the first of a source) match, or the one named ``wanted``.

    ``labels``: meaning of the labels of judged pairs; ``columns``: those that were renamed, format's name → data's name; ``seed``
    draws the rejected completion where there are several. Raises DataError where no row matches a format, with the columns found,
    or where the name is unknown.
    """
    known = {format_.name: format_ for format_ in FORMATS}
    if wanted != "auto" and wanted not in known:
        raise DataError(f"{where}: unknown format {wanted!r}.", remedy=f"Use auto, {', '.join(known)}.")
    matching = Counter(_first_match(row) for row in rows)
    del matching[None]
    if wanted == "auto" and not matching:
        raise DataError(
            f"{where}: no row looks like preference data; {describe_columns(rows, columns or {})}.",
            remedy=_format_remedy(rows),
        )
    if matching[TURNS.name] and matching[SHAREGPT.name]:  # a row of the latter is one of the former with one turn
        del matching[SHAREGPT.name]
    format_ = known[str(matching.most_common(1)[0][0]) if wanted == "auto" else wanted]
    if labels and format_ is not JUDGED:
        raise DataError(
            f"{where}: labels would do nothing for the format {format_.name}.",
            remedy="Remove labels, or name the format judged.",
        )
    if format_ in (PREFERENCE, TEXT):
        views = [one_rejected(row) if isinstance(row, dict) else row for row in rows]
        return preference.for_rows(format_, views, implicit_prompts=wanted != "auto")
    if format_ is JUDGED:
        return judged.for_rows(format_, rows, labels or {}, columns or {}, where)
    if format_ in SEEDED_FORMATS:
        return replace(format_, read=partial(format_.read, seed=seed))  # type: ignore[call-arg]
    return format_


def _format_remedy(rows: Sequence[Any]) -> str:
    """What to write for rows of no known format: a mapping by names, one to complete, or a known format."""
    if proposed := propose_columns(rows):
        return f"Write `{columns_line(proposed)}` below the path of the source in the recipe."
    if missing := _missing_column(rows):
        return (
            f"The column {missing} is missing: add it, or name the column that has it with `columns: {{{missing}: …}}`."
        )
    if rated := propose_rated(rows, is_repeated=False) or propose_labelled(rows, is_repeated=False):
        return (
            f"A pair needs two answers. If other rows have more answers to the same prompt, write `{columns_line(rated)}` below "
            "the path of the source in the recipe."
        )
    if gaps := columns_to_complete(rows):
        return (
            f"Write which column is which below the path of the source in the recipe: {gaps}. "
            f"If the rows have another format: the known ones are {', '.join(format_.name for format_ in FORMATS)}, see "
            f"{DOCS}/reference/data.md"
        )
    known_formats = "".join(f"\n    {format_.name}: {format_.description}" for format_ in FORMATS)
    return f"A pair needs two answers, a better and a worse one. Reshape the rows to a known format:{known_formats}"


def _missing_column(rows: Sequence[Any]) -> str | None:
    """The one column that rows lack for the format preference or helpsteer; None where they lack more."""
    names = {name for row in rows if isinstance(row, dict) for name, value in row.items() if value is not None}
    for pair in (("chosen", "rejected"), ("response", "helpfulness")):
        if len(missing := set(pair) - names) == 1 and "prompt" in names:
            return missing.pop()
    return None


def describe_columns(rows: Sequence[Any], columns: Mapping[str, str] | None = None) -> str:
    """Columns of the rows with their types, for an error message; ``columns``: those renamed, format's name → data's name."""
    renamed = columns or {}
    kinds, missing = dict[str, str](), type_name(None)
    for row in rows:
        for name, value in row.items() if isinstance(row, dict) else ():
            shown = f"{renamed[name]} as {name}" if name in renamed else str(name)
            if kinds.get(shown, missing) == missing:
                kinds[shown] = type_name(value)
    found = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    return f"the columns are {found}" if found else "the rows are not objects with columns"


def check_columns(columns: Mapping[str, str], rows: Sequence[Any], where: str) -> None:
    """Raise DataError where ``columns`` (format's name → data's name) has a name that no row has, or takes ranks as scores."""
    for name, column in columns.items():
        if name in LISTED_SCORES and RANK.occur_in(column):
            as_ranks = {"ranks" if key == name else key: value for key, value in columns.items()}
            raise DataError(
                f"{where}: columns: {column} has ranks by its name, of which 1 is the best; of {name}, the highest is the best.",
                remedy=f"Write `{columns_line(as_ranks)}`. If the highest number is the best, rename the column.",
            )
    dicts = [row for row in rows if isinstance(row, dict)]
    missing = [name for name in columns.values() if not any(find_column(row, name) for row in dicts)]
    if missing:
        names = dict.fromkeys(str(key) for row in dicts for key in row)
        raise DataError(
            f"{where}: columns: the data has no {' and no '.join(missing)}.",
            remedy=f"It has {', '.join(names) or 'none'}.",
        )


def rename_columns(row: Any, columns: Mapping[str, str]) -> Any:
    """Row with its columns renamed by ``columns`` (format's name → data's name); a row that is not a dict is unchanged.

    The data's name may be a path into a column: ``response_1.text``, ``answers.0.text``. The column of the weight stays, since
    a format may need it, too.
    """
    if not columns or not isinstance(row, dict):
        return row
    found = {name: find_column(row, path) for name, path in columns.items()}
    moved = {path for name, path in columns.items() if path in row and name != WEIGHT_COLUMN}
    others = {key: value for key, value in row.items() if key not in moved and key not in columns}
    return {**others, **{name: values[0] for name, values in found.items() if values}}


def find_column(row: Row, name: str) -> list[Any]:
    """Value of a column, or of a field within one, as a list of one; empty where there is none."""
    if name in row:
        return [row[name]]
    here: Any = row
    for part in name.split("."):
        if isinstance(here, dict) and part in here:
            here = here[part]
        elif isinstance(here, list) and part.isdecimal() and int(part) < len(here):
            here = here[int(part)]
        else:
            return []
    return [here]


def _first_match(row: Any) -> str | None:
    if not isinstance(row, dict):
        return None
    found = (format_.name for view in (row, one_rejected(row)) for format_ in FORMATS if format_.matches(view))
    return next(found, None)
