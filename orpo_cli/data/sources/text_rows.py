"""Rows of JSON, JSON Lines, csv and tsv files, read row by row with the standard library.

``datasets`` refuses ragged rows (nested messages, optional keys) and reports a bad line by its byte offset.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import shlex
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from orpo_cli.data.sources.row_limit import DOCUMENT_ROWS, RowLimit
from orpo_cli.errors import DataError

COMPRESSION_TOOLS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}  # suffix → name of kind and tool
CHUNK_CHARS = 1 << 20  # characters of a JSON array read at once
LONGEST_LITERAL = 16  # characters: so near to the end of a chunk, an error may be a value that was cut off


def open_text(path: Path) -> IO[bytes]:
    """The file, decompressed by its suffix."""
    return io.BufferedReader(cast(io.RawIOBase, _open_compressed(path)), 1 << 16)


def _open_compressed(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.open(path, "rb")
    if suffix == ".bz2":
        import bz2

        return bz2.open(path, "rb")
    if suffix == ".xz":
        import lzma

        return lzma.open(path, "rb")
    if suffix == ".zst":
        import pyarrow

        return pyarrow.input_stream(str(path), compression="zstd")
    return path.open("rb", buffering=0)


def utf8_remedy(path: Path) -> str:
    """How to save a text file of another encoding."""
    name, new = shlex.quote(path.name), shlex.quote(f"utf8-{path.name}")
    return f"Save the file as UTF-8: in Excel as CSV UTF-8, in a shell with `iconv -f ENCODING -t UTF-8 {name} > {new}`, such as -f GBK."


def uncompressed_name(path: Path) -> str:
    """File name without its compression suffix, in lower case."""
    name = Path(path.name.lower())
    return name.stem if name.suffix in COMPRESSION_TOOLS else str(name)


def json_rows(path: Path, limit: RowLimit) -> Iterator[tuple[int, Any]]:
    """JSON Lines, one array of rows, or one object that has the array under its only list-valued key."""
    kind = _document_kind(path, limit, jsonl_suffix=not uncompressed_name(path).endswith(".json"))
    with open_text(path) as file:
        if kind == "array":
            yield from enumerate(_array_rows(path, file, limit), 1)
            return
        if kind == "object":
            text = file.read(DOCUMENT_ROWS * limit.size + 1)
            if len(text) > DOCUMENT_ROWS * limit.size:
                raise limit.document_error(path)
            yield from enumerate(_rows_of_object(path, text), 1)
            return
        for number, line in enumerate(iter(partial(file.readline, limit.size + 1), b""), 1):
            if len(line) > limit.size:
                raise limit.error(f"{path}:{number}", "the line is")
            if line.strip():
                yield number, _parse_line(path, number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)


def _document_kind(path: Path, limit: RowLimit, *, jsonl_suffix: bool) -> str | None:
    """``array`` or ``object`` where the file is one JSON value and not one per line.

    ``jsonl_suffix``: its suffix means one value per line, so an object on its only line is a row, even one that contains lists.
    """
    first, rest = b"", b""
    with open_text(path) as file:
        for line in iter(partial(file.readline, limit.size + 1), b""):
            if first and line.strip():
                rest = line
                break
            first = first or line.removeprefix(b"\xef\xbb\xbf").strip()
            if len(line) > limit.size:  # a document on one line; in JSON Lines an error, reported later
                return "array" if first.startswith(b"[") else None if jsonl_suffix else "object"
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):  # a document over several lines, or an invalid line, which is reported later
        if first.startswith(b"["):
            return "array"
        return "object" if first == b"{" and rest else None
    if rest:
        return None
    if isinstance(value, list):
        return "array"
    is_wrapped = not jsonl_suffix and isinstance(value, dict) and "chosen" not in value
    return "object" if is_wrapped and _single_list_value(value) is not None else None


def _array_rows(path: Path, file: IO[bytes], limit: RowLimit) -> Iterator[Any]:
    """Elements of a JSON array, with one chunk of it in memory."""
    reader = _ArrayReader(path, io.TextIOWrapper(cast(Any, file), encoding="utf-8-sig", newline=""), limit)
    reader.expect("[")
    if reader.next_char() != "]":
        yield reader.value()
        while reader.next_char() == ",":
            reader.expect(",")
            yield reader.value()
    reader.expect("]")
    if reader.next_char():
        raise reader.error("Extra data")


class _ArrayReader:
    """Decoder of values from a text that is read in chunks."""

    def __init__(self, path: Path, file: io.TextIOWrapper, limit: RowLimit) -> None:
        self._path, self._file, self._limit = path, file, limit
        self._decode = json.JSONDecoder().raw_decode
        self._buffer, self._at, self._ended = "", 0, False
        self._line, self._column = 1, 1  # of the start of the buffer
        self._values = 0

    def next_char(self) -> str:
        """The next character that is not white space, which stays in the buffer; empty at the end of the file."""
        while True:
            while self._at < len(self._buffer):
                if self._buffer[self._at] not in " \t\n\r":
                    return self._buffer[self._at]
                self._at += 1
            if not self._read_more():
                return ""

    def expect(self, char: str) -> None:
        """Consume ``char``. Raises DataError where there is another one."""
        if self.next_char() != char:
            raise self.error("Expecting ',' delimiter" if char == "]" else f"Expecting {char!r}")
        self._at += 1

    def value(self) -> Any:
        """The value that starts here. Raises DataError where it is not JSON or larger than the limit."""
        self.next_char()
        while True:
            try:
                value, end = self._decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                cut_off = error.msg.startswith("Unterminated string") or error.pos > len(self._buffer) - LONGEST_LITERAL
                if not (cut_off and self._read_more()):
                    raise self.error(error.msg, error.pos) from error
            except RecursionError as error:
                raise self.error("nested too deeply") from error
            except ValueError as error:  # an integer of thousands of digits
                raise self.error(str(error)) from error
            else:
                if end < len(self._buffer) or not self._read_more():  # else a number may continue in the next chunk
                    break
            if len(self._buffer) - self._at > self._limit.size + CHUNK_CHARS:
                raise self._limit.error(f"{self._path}: row {self._values + 1}")
        if end - self._at > self._limit.size:
            raise self._limit.error(f"{self._path}: row {self._values + 1}")
        self._at = end
        self._values += 1
        return value

    def error(self, message: str, at: int | None = None) -> DataError:
        """Error at a position in the buffer, by default the current one."""
        read = self._buffer[: self._at if at is None else at]
        line, newline = self._line + read.count("\n"), read.rfind("\n")
        column = len(read) - newline if newline >= 0 else self._column + len(read)
        return DataError(
            f"{self._path}:{line}:{column}: not JSON: {message}.", remedy=f"Fix row {self._values + 1} of the array."
        )

    def _read_more(self) -> bool:
        """Drop what was consumed and append a chunk, as long as the rest; False at the end of the file."""
        rest = len(self._buffer) - self._at
        chunk = "" if self._ended else self._file.read(max(CHUNK_CHARS, min(rest, self._limit.size)))
        self._ended = not chunk
        if not chunk:
            return False
        read = self._buffer[: self._at]
        newline = read.rfind("\n")
        self._line += read.count("\n")
        self._column = len(read) - newline if newline >= 0 else self._column + len(read)
        self._buffer, self._at = self._buffer[self._at :] + chunk, 0
        return True


def _rows_of_object(path: Path, text: bytes) -> list[Any]:
    try:
        document = json.loads(text.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}.") from error
    inner = document if isinstance(document, list) else _single_list_value(document)
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
            remedy=utf8_remedy(path),
        ) from error
    except json.JSONDecodeError as error:
        reason = f"{error.msg} (column {error.colno})"
    except ValueError as error:  # an integer of thousands of digits
        reason = str(error).partition(";")[0]
    raise DataError(
        f"{path}:{number}: not JSON: {reason}.",
        remedy=f"Fix or remove line {number}: `{_print_line(path, number)}` shows it.",
    )


def _print_line(path: Path, number: int) -> str:
    """The shell command that prints a line of a file, decompressed if need be."""
    tool = COMPRESSION_TOOLS.get(path.suffix.lower())
    name = shlex.quote(str(path))
    return f"{tool} -dc {name} | sed -n {number}p" if tool else f"sed -n {number}p {name}"


def csv_rows(path: Path, delimiter: str, limit: RowLimit) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows as dicts with the names of the first line as keys; ``delimiter``: the usual one for the suffix."""
    csv.field_size_limit(2 * limit.size)  # csv's default of 131,072 is shorter than some completions
    row_chars = 0  # characters read since the last complete row
    number = 0

    def lines(text: io.TextIOWrapper) -> Iterator[str]:
        nonlocal row_chars
        for line in iter(partial(text.readline, limit.size + 1), ""):
            row_chars += len(line)
            if row_chars > limit.size:
                raise limit.error(f"{path}: row {number + 1}", "the row, perhaps with a quote that is not closed, is")
            yield line

    with open_text(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        source = lines(text)
        names = next(source, "")
        reader = csv.reader(chain([names], source), delimiter=_delimiter(names, delimiter), strict=True)
        header = next(reader, [])
        if twice := [name for name in dict.fromkeys(header) if header.count(name) > 1]:
            raise DataError(
                f"{path}: the header names {', '.join(twice)} more than once.", remedy="Give each column another name."
            )
        row_chars = 0
        for number, cells in enumerate((cells for cells in reader if cells), 1):
            row_chars = 0
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
