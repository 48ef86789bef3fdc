"""Which format rows have, and their columns under our names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from orpo_cli.data.formats import judged, preference
from orpo_cli.data.formats.conversations import ALPACA, OPENAI, SHAREGPT, SWIFT
from orpo_cli.data.formats.format import SCORES, Format, Row
from orpo_cli.data.formats.judged import JUDGED, Verdict
from orpo_cli.data.formats.kto import KTO
from orpo_cli.data.formats.preference import PREFERENCE
from orpo_cli.data.formats.scored import HELPSTEER, STACKEXCHANGE, ULTRAFEEDBACK
from orpo_cli.data.formats.transcripts import HH
from orpo_cli.data.messages import type_name
from orpo_cli.errors import DataError

# In the order in which a row is held against them: the first that it looks like is its format.
FORMATS = (HH, OPENAI, SWIFT, SHAREGPT, ALPACA, ULTRAFEEDBACK, STACKEXCHANGE, HELPSTEER, JUDGED, KTO, PREFERENCE)
SEEDED_FORMATS = (ULTRAFEEDBACK, STACKEXCHANGE, HELPSTEER)
SCORE_COLUMNS = tuple(name for names in SCORES for name in names)
COLUMNS = tuple(
    dict.fromkeys([*(name for format_ in FORMATS for name in format_.columns), *SCORE_COLUMNS])
)  # our names


def detect_format(
    rows: Sequence[Any],
    wanted: str = "auto",
    where: str = "the data",
    *,
    labels: Mapping[str, Verdict] | None = None,
    seed: int = 42,
) -> Format:
    """The format that most of ``rows`` (the first of a source) look like, or the one named by ``wanted``.

    ``labels`` says what the labels of judged pairs mean; ``seed`` draws rejected answers where there are several. Raises
    DataError where no row looks like any, listing the columns found, or where the name is unknown.
    """
    known = {format_.name: format_ for format_ in FORMATS}
    if wanted != "auto" and wanted not in known:
        raise DataError(f"{where}: unknown format {wanted!r}.", remedy=f"Use auto, {', '.join(known)}.")
    looks = Counter(_first_match(row) for row in rows)
    del looks[None]
    if wanted == "auto" and not looks:
        raise DataError(
            f"{where}: no row looks like preference data; {describe_columns(rows)}.",
            remedy="Map your columns to prompt, chosen, rejected with `columns:`, or reshape the rows. Known formats:"
            + "".join(f"\n    {format_.name}: {format_.description}" for format_ in FORMATS),
        )
    format_ = known[str(looks.most_common(1)[0][0]) if wanted == "auto" else wanted]
    if labels and format_ is not JUDGED:
        raise DataError(
            f"{where}: labels would do nothing for the format {format_.name}.",
            remedy="Remove labels, or name the format judged.",
        )
    if format_ is PREFERENCE:
        return preference.for_rows(format_, rows)
    if format_ is JUDGED:
        return judged.for_rows(format_, rows, labels or {}, where)
    if format_ in SEEDED_FORMATS:
        return replace(format_, read=partial(format_.read, seed=seed))  # type: ignore[call-arg]
    return format_


def describe_columns(rows: Sequence[Any]) -> str:
    """What the rows hold, in words, for an error."""
    kinds: dict[str, str] = {}
    for row in rows:
        for name, value in row.items() if isinstance(row, dict) else ():
            kinds.setdefault(str(name), type_name(value))
    found = ", ".join(f"{name} ({what})" for name, what in kinds.items())
    return f"the columns are {found}" if found else "the rows are not objects with columns"


def rename_columns(row: Any, columns: Mapping[str, str]) -> Any:
    """The row with ``columns`` (our name → the data's) applied; what is not a dict stays as it is.

    The data's name may reach into a column: ``response_1.text``, ``answers.0.text``.
    """
    if not columns or not isinstance(row, dict):
        return row
    found = {ours: find_column(row, theirs) for ours, theirs in columns.items()}
    taken = {theirs for theirs in columns.values() if theirs in row}
    renamed = {key: value for key, value in row.items() if key not in taken and key not in columns}
    return {**renamed, **{ours: values[0] for ours, values in found.items() if values}}


def find_column(row: Row, name: str) -> list[Any]:
    """The value of a column, or of a field within one, as a list of one; empty where there is none."""
    if name in row:
        return [row[name]]
    here: Any = row
    for part in name.split("."):
        if isinstance(here, dict) and part in here:
            here = here[part]
        elif isinstance(here, list) and part.isdigit() and int(part) < len(here):
            here = here[int(part)]
        else:
            return []
    return [here]


def _first_match(row: Any) -> str | None:
    if not isinstance(row, dict):
        return None
    return next((format_.name for format_ in FORMATS if format_.matches(row)), None)
