"""Data file readers: the rows of one local file, with errors that name the file, the row and the remedy."""

from __future__ import annotations

import csv
import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orpo_cli.data.sources.arrow_rows import arrow_batches, arrow_rows, parquet_rows
from orpo_cli.data.sources.row_limit import row_limit
from orpo_cli.data.sources.text_rows import (
    COMPRESSION_TOOLS,
    csv_rows,
    json_rows,
    open_text,
    uncompressed_name,
    utf8_remedy,
)
from orpo_cli.errors import DataError
from orpo_cli.file_kind import START_BYTES, FileKind, content_kind, file_kind
from orpo_cli.nearest_path import missing_path_remedy

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
TEXT_SUFFIXES = (*JSON_SUFFIXES, ".csv", ".tsv")
SUFFIXES = (
    *TEXT_SUFFIXES,
    *(f"{suffix}{compressed}" for suffix in TEXT_SUFFIXES for compressed in COMPRESSION_TOOLS),
    ".parquet",
    ".arrow",
)
SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")
KNOWN = f"Known: {', '.join(TEXT_SUFFIXES)} (also with {', '.join(COMPRESSION_TOOLS)}), .parquet, .arrow."
KINDS = {**COMPRESSION_TOOLS, ".parquet": "parquet", ".arrow": "arrow"}  # suffix → name of its content's kind
READ_ERRORS = (EOFError, MemoryError, OSError, RecursionError, ValueError, csv.Error, zlib.error)


def is_data_file(name: str) -> bool:
    """Whether the suffix of ``name`` is one that ``read_rows`` supports."""
    return name.lower().endswith(SUFFIXES)


def may_be_data(path: Path) -> bool:
    """Whether a path is a folder, or has a suffix that ``read_rows`` supports."""
    return path.is_dir() or is_data_file(path.name)


def read_rows(path: Path, columns: Mapping[str, str] = {}) -> Iterator[tuple[int, Any]]:
    """Yield (row number from 1, row). For jsonl it is the line number; for csv and tsv it does not count the header.

    Raises DataError with the file and, as far as the reader knows it, the row; also for a row over the limit of ``row_limit``.
    """
    last = 0
    try:
        check_kind(path)
        for number, row in _reader(path, columns):
            yield number, row
            last = number
    except Exception as error:
        raise _convert_error(error, path, last) from error


def check_arrow_file(path: Path) -> None:
    """Raise DataError where an Arrow file is damaged, before a library maps it into memory."""
    try:
        check_kind(path)
        for _ in arrow_batches(path):
            pass
    except Exception as error:
        raise _convert_error(error, path, 0) from error


def check_regular(path: Path) -> None:
    """Raise DataError unless ``path`` is a regular file or a directory: a pipe can be read only once, and may wait forever."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise DataError(
            f"{path}: no such file or folder." if missing else f"{path}: cannot be read: {error.strerror or error}.",
            remedy=f"{missing_path_remedy(path, may_be_data) if missing else ''} A relative path of a recipe is searched next to it and in the current directory; a hub "
            "dataset is written namespace/name.".lstrip(),
        ) from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise DataError(f"{path}: {kind}, not a file.", remedy="Write the data to a file: it is read more than once.")


def check_kind(path: Path) -> None:
    """Raise DataError where the content is of another kind than the suffix says. Raises OSError."""
    kind = file_kind(path)
    suffix = Path(path.name.lower()).suffix
    if kind is not None and kind.name == COMPRESSION_TOOLS.get(suffix):
        inner = _decompressed_kind(path)
        if inner is None or inner.name == "empty":
            return
        raise DataError(
            f"{path}: cannot be read after row 0: the {kind.name} file contains {inner.description}.",
            remedy=inner.remedy,
        )
    if kind is None or kind.name == KINDS.get(suffix) or (kind.name == "empty" and suffix not in KINDS):
        return
    raise DataError(f"{path}: cannot be read after row 0: the file is {kind.description}.", remedy=kind.remedy)


def _decompressed_kind(path: Path) -> FileKind | None:
    """Kind of the content of a compressed file; None also for a damaged file, whose error has the row when it is read."""
    try:
        with open_text(path) as file:
            return content_kind(file.read(START_BYTES))
    except Exception as error:
        if isinstance(_convert_error(error, path, 0), DataError):
            return None
        raise


def _convert_error(error: Exception, path: Path, last: int) -> Exception:
    """Error for the user in place of the error of a reader after row ``last``; ``error`` itself where it is a bug."""
    if not (isinstance(error, READ_ERRORS) or type(error).__module__.startswith(("pyarrow", "_lzma"))):
        return error
    tool = COMPRESSION_TOOLS.get(path.suffix.lower())
    if tool is not None and _is_of_compression(error):
        return DataError(
            f"{path}: the {tool} file is truncated or damaged after row {last}: {error}.",
            remedy=f"Download or compress the file again; `{tool} -t` tests it.",
        )
    if isinstance(error, UnicodeDecodeError):
        return DataError(
            f"{path}: {f'row {last + 1}' if last else 'header or row 1'}: not UTF-8: {error.reason} at byte {error.start}.",
            remedy=utf8_remedy(path),
        )
    remedy: str | None = "The file is damaged, or not of the kind that its suffix names: download or write it again."
    if isinstance(error, OSError) and error.errno is not None:
        reason, remedy = error.strerror or str(error), None
    elif isinstance(error, RecursionError):
        reason, remedy = "its JSON is nested too deeply", "Fix or remove the next row."
    elif isinstance(error, csv.Error):
        reason = str(error)
        remedy = "Quote fields that contain the delimiter or a line break, close each quote, and double quotes within a field."
    elif isinstance(error, MemoryError):
        reason = f"it needs more memory than there is ({str(error) or 'out of memory'})"
    else:  # pyarrow's errors
        reason = " ".join(str(error).split())[:300].rstrip(".")
    return DataError(f"{path}: cannot be read after row {last}: {reason}.", remedy=remedy)


def _is_of_compression(error: Exception) -> bool:
    """Whether the decompression raised ``error``: an OSError of the system has a number."""
    if isinstance(error, OSError):
        return error.errno is None
    return isinstance(error, EOFError | zlib.error) or type(error).__module__ == "_lzma"


def unsupported_error(name: str, path: Path | None = None) -> DataError:
    """Error for a file whose suffix is not supported, with what its content is where ``path`` is known."""
    if name.lower().endswith(SPREADSHEETS):
        return DataError(
            f"{name}: a spreadsheet, which is not a supported kind of data file.",
            remedy=f"Save the sheet with the pairs as CSV (in Excel: CSV UTF-8). {KNOWN}",
        )
    kind = file_kind(path) if path is not None else None
    if kind is not None and kind.name not in KINDS.values():
        return DataError(f"{name}: not a data file but {kind.description}.", remedy=f"{kind.remedy} {KNOWN}")
    return DataError(f"{name}: not a supported kind of data file.", remedy=KNOWN)


def _reader(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, Any]]:
    name, limit = uncompressed_name(path), row_limit()
    if name.endswith(JSON_SUFFIXES):
        return json_rows(path, limit)
    if name.endswith((".csv", ".tsv")):
        return csv_rows(path, "\t" if name.endswith(".tsv") else ",", limit)
    reader = parquet_rows if name.endswith(".parquet") else arrow_rows
    return reader(path, limit, columns)
