"""First rows of local data files: unknown formats and wrong columns, found before a tokenizer or a model is loaded."""

from __future__ import annotations

import glob
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from orpo_cli.data.filters import REASONS, REMEDIES
from orpo_cli.data.formats.column_proposals import propose_columns
from orpo_cli.data.formats.detect import SCORE_COLUMNS, check_columns, detect_format, rename_columns
from orpo_cli.data.formats.format import Format
from orpo_cli.data.formats.prompt_columns import is_prompt_name, prompt_candidates
from orpo_cli.data.formats.several_rejected import parse_text_lists, text_list_columns
from orpo_cli.data.json_text import parse_cells
from orpo_cli.data.pair import RowRejected
from orpo_cli.data.sources import files
from orpo_cli.data.sources.source import looks_local
from orpo_cli.errors import DataError
from orpo_cli.recipe.schema import Source

FORMAT_SAMPLE_ROWS = 100  # rows that decide the format of a source
FEW_PAIRS = 400  # from here on a twentieth of the pairs is at least 20, the least that says something about an accuracy
PLAIN_TEXT = "text"  # format of rows whose texts are trained as they are, JSON too


def check_first_rows(source: Source) -> None:
    """Raise DataError where a local file is missing, or where its first rows have no known format or not the mapped columns.

    ``source.path`` is absolute if it is local. Folders, patterns, URLs and the hub are checked when they are read, and so are
    samples and slices, because their first rows are others.
    """
    path = Path(source.path).expanduser()
    is_file = "://" not in source.path and (
        path.exists() or (looks_local(source.path) and not glob.has_magic(source.path))
    )
    if not is_file:
        return
    files.check_regular(path)
    if not path.is_file():
        return
    if not files.is_data_file(path.name):
        raise files.unsupported_error(str(path), path)
    if source.max_samples is not None or source.split != "train":
        return
    rows = read_first_rows(path, source)
    if rows:
        check_columns(source.columns, rows, str(path))
        rows = prepare_rows([rename_columns(row, source.columns) for row in rows], source.format)
        where = f"{path} (its first rows)"
        format_ = detect_format(rows, source.format, where, labels=source.labels, columns=source.columns)
        if rejection := _without_prompt(format_, rows):
            detail = rejection.detail or REASONS[rejection.reason]
            raise DataError(
                f"{where}: no row can be used: {detail}.", remedy=rejection.remedy or REMEDIES[rejection.reason]
            )


def has_columns(path: Path, source: Source) -> bool:
    """Whether the first rows of a local data file have the columns that ``source`` maps."""
    if not path.is_file() or not files.is_data_file(path.name):
        return False
    try:
        check_columns(source.columns, read_first_rows(path, source), str(path))
    except DataError:
        return False
    return True


def count_first_rows(path: Path, limit: int = FORMAT_SAMPLE_ROWS) -> int:
    """Number of rows of a local data file, at most ``limit``; 0 where they cannot be read."""
    try:
        return sum(1 for _ in islice(files.read_rows(path), limit)) if path.is_file() else 0
    except DataError:
        return 0


def propose_for(path: Path) -> dict[str, str] | None:
    """The mapping of columns that the first rows of a local data file need; None where none is known."""
    try:
        found = find_columns(path)
    except DataError:
        return None
    return found.mapping if found else None


@dataclass(frozen=True)
class FoundColumns:
    """Columns of a file. ``mapping``: format's name → data's name, empty where the format needs none."""

    format: str
    mapping: dict[str, str]
    used: list[str]  # names in the data
    unused: list[str]
    scores: list[str]  # of the unused ones, those that `min_score_margin` and `weight_by` read
    other_prompts: list[str]  # columns that may be the prompt as well as the mapped one
    few_rows: int | None  # rows of the file, if they form few pairs

    @property
    def prompt_is_guessed(self) -> bool:
        """Whether the names do not decide which column is the prompt."""
        prompt = self.mapping.get("prompt")
        return prompt is not None and (bool(self.other_prompts) or not is_prompt_name(prompt))


def find_columns(path: Path) -> FoundColumns | None:
    """Format of the first rows of a file, and the mapping of columns that a recipe needs for it; None for a folder.

    Raises DataError where the rows have no known format, and no columns whose names say which answer is the better one.
    """
    source = Source(path=str(path))
    files.check_regular(path)
    if not path.is_file():
        return None
    if not files.is_data_file(path.name):
        raise files.unsupported_error(str(path), path)
    rows = prepare_rows(read_first_rows(path, source), source.format)
    if not rows:
        raise DataError(f"{path}: the file has no rows.", remedy="Write pairs to it before the training.")
    try:
        mapping = _missing_prompt(detect_format(rows, source.format, str(path)), rows)
    except DataError:
        if (proposed := propose_columns(rows)) is None:
            raise
        mapping = proposed
    renamed = [rename_columns(row, mapping) for row in rows]
    format_ = detect_format(renamed, source.format, str(path), columns=mapping)
    read = {*format_.columns, *mapping}
    mapped = {path.split(".")[0] for path in mapping.values()}  # of data.prompt, data
    names = list(dict.fromkeys(str(name) for row in renamed if isinstance(row, dict) for name in row))
    unused = [name for name in names if name not in read and name not in mapped]
    scores = [name for name in unused if name in SCORE_COLUMNS]
    others = prompt_candidates(rows, (*mapping.values(), *read)) if "prompt" in mapping else []
    used = [mapping.get(name, name) for name in names if name in read]
    limit = FEW_PAIRS if format_.group is None else 2 * FEW_PAIRS
    count = count_first_rows(path, limit)
    return FoundColumns(format_.name, mapping, used, unused, scores, others, count if 0 < count < limit else None)


def _missing_prompt(format_: Format, rows: list[Any]) -> dict[str, str]:
    """The mapping of the prompt for rows of a known format that all lack one, although another column may be it."""
    candidates = prompt_candidates(rows, format_.columns) if _without_prompt(format_, rows) else []
    return {"prompt": candidates[0]} if candidates else {}


def _without_prompt(format_: Format, rows: list[Any]) -> RowRejected | None:
    """Why the first row cannot be used that has no prompt, where no row can be used; None elsewhere."""
    if format_.group is not None:  # its rows are no pairs before they are grouped
        return None
    rejected: list[RowRejected] = []
    for row in rows:
        try:
            pair = format_.read(row, Counter())
        except RowRejected as error:
            rejected.append(error)
        else:
            if pair.prompt_text.strip():
                return None
            rejected.append(RowRejected("empty_prompt"))
    return next((each for each in rejected if each.reason == "empty_prompt"), None)


def read_first_rows(path: Path, source: Source) -> list[Any]:
    """The first rows of a file. Raises DataError where they cannot be read."""
    return [row for _, row in islice(files.read_rows(path, source.columns), FORMAT_SAMPLE_ROWS)]


def prepare_rows(rows: list[Any], format_name: str) -> list[Any]:
    """``rows`` as the formats see them: lists and messages that are stored as text are parsed, except for plain text."""
    if format_name == PLAIN_TEXT:
        return rows
    lists = text_list_columns(rows)
    return [parse_cells(parse_text_lists(row, lists)) for row in rows]
