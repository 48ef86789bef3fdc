"""Prepared pairs in a folder, which the processes of a job map into memory: all train on the same pairs, tokenized once.

The folder has links to the files of the pairs, which are not copied, and the numbers of those that are used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.data.prepare import PreparedData
from orpo_cli.data.table import PairTable

if TYPE_CHECKING:
    from datasets import Dataset

PARTS = ("train", "eval")


def save_pairs(pairs: PreparedData, folder: Path) -> None:
    """Write the pairs of both parts to ``folder``. Raises OSError where the disk is full."""
    for part, table in pairs.tables.items():
        table.save(folder / part)


def load_pairs(folder: Path) -> tuple[Dataset, Dataset | None]:
    """The train and eval pairs that ``save_pairs`` wrote."""
    train, held_out = (PairTable.load(folder / part) if (folder / part).is_dir() else None for part in PARTS)
    assert train is not None
    return train.dataset(), None if held_out is None else held_out.dataset()
