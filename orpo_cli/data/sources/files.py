"""Data file readers: the rows of one local file, with errors that name the row.

``datasets`` refuses ragged rows (nested messages, optional keys) and reports a bad line by its byte offset. So json, jsonl, csv
and tsv are read with the standard library, parquet and arrow with pyarrow.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from orpo_cli.errors import DataError

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
TEXT_SUFFIXES = (*JSON_SUFFIXES, ".csv", ".tsv")
COMPRESSED_SUFFIXES = (".gz", ".zst")
SUFFIXES = (
    *TEXT_SUFFIXES,
    *(f"{suffix}{compressed}" for suffix in TEXT_SUFFIXES for compressed in COMPRESSED_SUFFIXES),
    ".parquet",
    ".arrow",
)
MAX_FIELD_CHARS = 2**31 - 1  # characters; csv's default of 131,072 is shorter than some completions


def is_data_file(name: str) -> bool:
    """Whether the suffix of ``name`` is one that ``read_rows`` supports."""
    return name.lower().endswith(SUFFIXES)


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (row number from 1, row). For jsonl it is the line number; for csv and tsv it does not count the header.

    Raises DataError with the file and, as far as the reader knows it, the row.
    """
    last = 0
    try:
        for number, row in _reader(path):
            yield number, row
            last = number
    except (EOFError, OSError, RecursionError, ValueError, csv.Error, zlib.error) as error:
        raise _convert_error(error, path, last) from error


def _convert_error(error: Exception, path: Path, last: int) -> DataError:
    """Error for the user in place of the error of a reader after row ``last``."""
    is_zstd = path.name.lower().endswith(".zst")
    is_gzip_error = isinstance(error, EOFError | gzip.BadGzipFile | zlib.error)
    if is_gzip_error or (is_zstd and isinstance(error, OSError) and error.errno is None):  # pyarrow's for damaged data
        tool = "gzip" if is_gzip_error else "zstd"
        return DataError(
            f"{path}: the {tool} file is truncated or damaged after row {last}: {error}.",
            remedy=f"Download or compress the file again; `{tool} -t` tests it.",
        )
    if isinstance(error, UnicodeDecodeError):
        return DataError(
            f"{path}: row {last + 1}: not UTF-8: {error.reason} at byte {error.start}.",
            remedy="Save the file as UTF-8.",
        )
    if isinstance(error, OSError):
        reason, remedy = error.strerror or str(error), None
    elif isinstance(error, RecursionError):
        reason, remedy = "its JSON is nested too deeply", "Fix or remove the next row."
    elif isinstance(error, csv.Error):
        reason = str(error)
        remedy = "Quote fields that contain the delimiter or a line break, close each quote, and double quotes within a field."
    else:  # pyarrow's errors are ValueErrors
        reason = str(error).rstrip(".")
        remedy = "The file is empty, truncated, or not of the kind that its suffix names: download or write it again."
    return DataError(f"{path}: cannot be read after row {last}: {reason}.", remedy=remedy)


def _reader(path: Path) -> Iterator[tuple[int, Any]]:
    name = _uncompressed_name(path)
    if name.endswith(JSON_SUFFIXES):
        return _json_rows(path)
    if name.endswith((".csv", ".tsv")):
        return _csv_rows(path, delimiter="\t" if name.endswith(".tsv") else ",")
    return _parquet_rows(path) if name.endswith(".parquet") else _arrow_rows(path)


def _open(path: Path) -> IO[bytes]:
    if path.name.lower().endswith(".gz"):
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.name.lower().endswith(".zst"):
        import pyarrow

        return cast(IO[bytes], io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd")))
    return path.open("rb")


def _uncompressed_name(path: Path) -> str:
    """File name without its compression suffix, in lower case."""
    return path.name.lower().removesuffix(".gz").removesuffix(".zst")


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """JSON Lines, one array of rows, or one object that has the array under its only list-valued key."""
    with _open(path) as file:
        if _is_one_document(path, jsonl_suffix=not _uncompressed_name(path).endswith(".json")):
            yield from enumerate(_rows_of_document(path, file.read()), 1)
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _parse_line(path, number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)


def _is_one_document(path: Path, *, jsonl_suffix: bool) -> bool:
    """Whether the file is one JSON value and not one per line.

    ``jsonl_suffix``: its suffix means one value per line, so an object on its only line is a row, even one that contains lists.
    """
    first, rest = b"", b""
    with _open(path) as file:
        for line in file:
            if first and line.strip():
                rest = line
                break
            first = first or line.removeprefix(b"\xef\xbb\xbf").strip()
    try:
        value = json.loads(first)
    except ValueError:  # an array or object over several lines; otherwise an invalid first line, reported later
        return first.startswith(b"[") or (first == b"{" and bool(rest))
    if rest:
        return False
    return isinstance(value, list) or (
        not jsonl_suffix and isinstance(value, dict) and "chosen" not in value and _single_list_value(value) is not None
    )


def _rows_of_document(path: Path, text: bytes) -> list[Any]:
    try:
        document = json.loads(text.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}.") from error
    if isinstance(document, list):
        return document
    inner = _single_list_value(document)
    if inner is None:
        raise DataError(
            f"{path}: one JSON object, not rows.", remedy="Give an array of objects, or one object per line."
        )
    return inner


def _single_list_value(document: dict[str, Any]) -> list[Any] | None:
    lists = [value for value in document.values() if isinstance(value, list)]
    return lists[0] if len(lists) == 1 and all(isinstance(row, dict) for row in lists[0]) else None


def _parse_line(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}:{number}: not UTF-8: {error.reason} at byte {error.start} of the line.",
            remedy="Save the file as UTF-8.",
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{number}: not JSON: {error.msg} (column {error.colno}).",
            remedy=f"Fix or remove line {number}: `sed -n {number}p` shows it.",
        ) from error


def _csv_rows(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows as dicts with the names of the first line as keys; ``delimiter``: the usual one for the suffix."""
    csv.field_size_limit(min(MAX_FIELD_CHARS, sys.maxsize))
    with _open(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        names = text.readline()
        reader = csv.reader(chain([names], text), delimiter=_delimiter(names, delimiter), strict=True)
        header = next(reader, [])
        if twice := [name for name in dict.fromkeys(header) if header.count(name) > 1]:
            raise DataError(
                f"{path}: the header names {', '.join(twice)} more than once.", remedy="Give each column another name."
            )
        for number, cells in enumerate((cells for cells in reader if cells), 1):
            if len(cells) != len(header):
                raise DataError(
                    f"{path}: row {number} (ends on line {reader.line_num}) has {len(cells)} fields where the header has "
                    f"{len(header)}.",
                    remedy="Quote fields that contain the delimiter, a quote or a line break.",
                )
            yield number, dict(zip(header, cells, strict=True))


def _delimiter(header: str, usual: str) -> str:
    """The usual delimiter, or another where the header has none of it: many spreadsheets write semicolons to .csv files."""
    return next((sign for sign in (usual, ";", "\t", "|", ",") if sign in header), usual)


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        yield from _number_rows(file.iter_batches(batch_size=1024))


def _arrow_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Rows of Arrow's stream format (what ``datasets`` writes) or its file format (Feather 2)."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as source:
        is_file_format = source.read(6) == b"ARROW1"
        source.seek(0)
        reader = pyarrow.ipc.open_file(source) if is_file_format else pyarrow.ipc.open_stream(source)
        yield from _number_rows(
            map(reader.get_batch, range(reader.num_record_batches)) if is_file_format else iter(reader)
        )


def _number_rows(batches: Iterator[Any]) -> Iterator[tuple[int, Any]]:
    return enumerate((row for batch in batches for row in batch.to_pylist()), 1)
