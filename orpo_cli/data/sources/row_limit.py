"""Row limit: the largest row that is read, so that a damaged or hostile file cannot fill the memory.

A small compressed file can contain a line of gigabytes, and a missing quote makes one field of the rest of a csv file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from orpo_cli.errors import DataError
from orpo_cli.model.file_size import parse_size

VARIABLE = "ORPO_MAX_ROW_SIZE"
DEFAULT = "16MiB"  # about four million tokens
DOCUMENT_ROWS = 16  # a JSON object that contains the rows is read at once, up to so many times the limit


@dataclass(frozen=True)
class RowLimit:
    """``text`` as the user wrote it; ``size`` in bytes of the row as stored, without compression."""

    text: str
    size: int

    def error(self, where: str, what: str = "the row is") -> DataError:
        """Error for a row that is larger, at ``where`` (a file and its row)."""
        return DataError(
            f"{where}: {what} larger than {self.text}, the limit of a row.",
            remedy=f"Shorten or remove the row; if it is right, raise the limit: `{VARIABLE}=256MiB orpo …`.",
        )

    def document_error(self, path: Path) -> DataError:
        """Error for a JSON object around the rows that is too large to be read at once."""
        return DataError(
            f"{path}: the JSON object that contains the rows is larger than {DOCUMENT_ROWS} times {self.text}.",
            remedy="Write one row per line (JSON Lines) or only the array of the rows, which are read row by row; "
            f"or raise the limit: `{VARIABLE}=256MiB orpo …`.",
        )


def row_limit() -> RowLimit:
    """The limit of a row: the environment variable ``ORPO_MAX_ROW_SIZE``, else 16 MiB. Raises UsageError."""
    text = os.environ.get(VARIABLE) or DEFAULT
    return RowLimit(text, parse_size(text, VARIABLE))
