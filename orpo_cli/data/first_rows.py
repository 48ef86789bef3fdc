"""First rows of local data files: unknown formats and wrong columns, found before a tokenizer or a model is loaded."""

from __future__ import annotations

import glob
from itertools import islice
from pathlib import Path
from typing import Any

from orpo_cli.data.formats.column_proposals import propose_columns
from orpo_cli.data.formats.detect import check_columns, detect_format, rename_columns
from orpo_cli.data.formats.several_rejected import parse_text_lists, text_list_columns
from orpo_cli.data.json_text import parse_cells
from orpo_cli.data.sources import files
from orpo_cli.data.sources.source import looks_local
from orpo_cli.errors import DataError
from orpo_cli.recipe.schema import Source

FORMAT_SAMPLE_ROWS = 100  # rows that decide the format of a source
PLAIN_TEXT = "text"  # format of rows whose texts are trained as they are, JSON too


def check_first_rows(source: Source) -> None:
    """Raise DataError where a local file is missing, or where its first rows have no known format or not the mapped columns.

    ``source.path`` is absolute if it is local. Folders, patterns, URLs and the hub are checked when they are read, and so are
    samples and slices, because their first rows are others.
    """
    path = Path(source.path).expanduser()
    is_file = (
        "://" not in source.path and not glob.has_magic(source.path) and (path.exists() or looks_local(source.path))
    )
    if not is_file:
        return
    files.check_regular(path)
    if (
        not path.is_file()
        or not files.is_data_file(path.name)
        or source.max_samples is not None
        or source.split != "train"
    ):
        return
    rows = read_first_rows(path, source)
    if rows:
        check_columns(source.columns, rows, str(path))
        rows = prepare_rows([rename_columns(row, source.columns) for row in rows], source.format)
        detect_format(rows, source.format, f"{path} (its first rows)", labels=source.labels)


def columns_to_map(path: Path) -> str | None:
    """The `columns:` line that a recipe needs for a file; None where the first rows have a known format.

    Raises DataError where they have none, and no columns whose names say which answer is the better one.
    """
    source = Source(path=str(path))
    files.check_regular(path)
    if not path.is_file() or not files.is_data_file(path.name):
        return None
    rows = prepare_rows(read_first_rows(path, source), source.format)
    if not rows:
        raise DataError(f"{path}: the file has no rows.", remedy="Write pairs to it before the training.")
    try:
        detect_format(rows, source.format, str(path))
    except DataError:
        if (proposed := propose_columns(rows)) is None:
            raise
        return proposed
    return None


def read_first_rows(path: Path, source: Source) -> list[Any]:
    """The first rows of a file. Raises DataError where they cannot be read."""
    return [row for _, row in islice(files.read_rows(path, source.columns), FORMAT_SAMPLE_ROWS)]


def prepare_rows(rows: list[Any], format_name: str) -> list[Any]:
    """``rows`` as the formats see them: lists and messages that are stored as text are parsed, except for plain text."""
    if format_name == PLAIN_TEXT:
        return rows
    lists = text_list_columns(rows)
    return [parse_cells(parse_text_lists(row, lists)) for row in rows]
