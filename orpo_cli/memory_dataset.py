"""Names for datasets that a Python program held in memory, in place of their files in the cache."""

from __future__ import annotations

import re
from pathlib import Path

DATA_FILE = "pairs.parquet"
_FILE = re.compile(rf"[/\\]datasets[/\\][0-9a-f]{{32}}(?:-(\d+))?[/\\]{re.escape(DATA_FILE)}$")


def memory_dataset_folder(cache: Path, digest: str, rows: int) -> Path:
    """The folder of a dataset in the cache; its name has the number of rows, so that every process can name the dataset."""
    return cache / "datasets" / f"{digest[:32]}-{rows}"


def source_label(path: str) -> str:
    """``dataset in memory (1,234 rows)`` for the file of a dataset that was in memory, else ``path``."""
    found = _FILE.search(path)
    if found is None:
        return path
    rows = "" if found[1] is None else f" ({int(found[1]):,} row{'' if found[1] == '1' else 's'})"
    return f"dataset in memory{rows}"
