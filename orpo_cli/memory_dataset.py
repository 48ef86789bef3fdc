"""Names for datasets that a Python program held in memory, in place of their files in the cache."""

from __future__ import annotations

import re
from pathlib import Path

ARGUMENTS = ("train_dataset", "eval_dataset", "data")  # of the Python interface
_FILE = re.compile(  # version 0.2.0 wrote pairs.parquet
    rf"[/\\]datasets[/\\][0-9a-f]{{32}}(?:-(\d+))?[/\\](pairs|{'|'.join(ARGUMENTS)})\.parquet$"
)


def memory_dataset_file(cache: Path, digest: str, rows: int, argument: str) -> Path:
    """The file in the cache of a dataset, alone in its folder. Its path has the number of rows and the argument that gave it,
    so that every process can name the dataset and its rows.
    """
    return cache / "datasets" / f"{digest[:32]}-{rows}" / f"{argument}.parquet"


def source_label(path: str) -> str:
    """``dataset in memory (1,234 rows)`` for the file of a dataset that was in memory, else ``path``."""
    found = _FILE.search(path)
    if found is None:
        return path
    rows = "" if found[1] is None else f" ({int(found[1]):,} row{'' if found[1] == '1' else 's'})"
    return f"dataset in memory{rows}"


def argument_of(path: str) -> str | None:
    """The argument of the Python interface that gave the dataset of this file, which starts the names of its rows."""
    found = _FILE.search(path)
    return None if found is None else found[2]
