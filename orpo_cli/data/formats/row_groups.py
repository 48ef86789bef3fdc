"""Row groups: the rows of one prompt, or of one tree, joined wherever they are in a source, or only where they follow each other."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable, Iterator
from itertools import groupby
from tempfile import TemporaryFile, gettempdir
from typing import Any

from orpo_cli.data.sources.opened import Row
from orpo_cli.os_errors import explain_limits

Key = Callable[[Row], Any]  # JSON-like; equal for the rows of a group
GroupRows = Callable[[Iterator[Row], Key], Iterator[list[Row]]]


def all_rows(rows: Iterator[Row], key: Key) -> Iterator[list[Row]]:
    """Groups of all rows, in the order of their first rows.

    The rows wait in a temporary file, because a group may end with the last row; the memory has their positions only.
    Raises MachineError where there is no room for it.
    """
    what = f"the rows of a source wait in a temporary file in {gettempdir()} until their groups are complete"
    remedy = "Free as much space as the source takes, or set TMPDIR to a folder on another disk."
    with explain_limits(what, remedy), TemporaryFile() as file:  # closing it writes, too
        groups: dict[bytes, list[int]] = {}
        for row in rows:
            text = json.dumps(key(row), sort_keys=True, default=str)
            digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]
            groups.setdefault(digest, []).append(file.tell())
            pickle.dump(row, file)
        for positions in groups.values():
            yield [_row_at(file, position) for position in positions]


def _row_at(file: Any, position: int) -> Row:
    file.seek(position)
    row: Row = pickle.load(file)
    return row


def consecutive_rows(rows: Iterator[Row], key: Key) -> Iterator[list[Row]]:
    """Groups of rows that follow each other, for a stream, whose end is not known."""
    return (list(group) for _, group in groupby(rows, key))
