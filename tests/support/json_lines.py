"""JSON Lines files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_json_lines(path: Path, rows: Iterable[Any]) -> Path:
    """Write each row to a line of ``path``, and return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
