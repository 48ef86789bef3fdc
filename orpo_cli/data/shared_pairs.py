"""Prepared pairs in a folder, which the processes of a job map into memory: all train on the same pairs, tokenized once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.data.prepare import PreparedData

if TYPE_CHECKING:
    from datasets import Dataset

TEXTS = ("prompt_json", "chosen_text", "rejected_text")  # training reads the token ids only
PARTS = ("train", "eval")


def save_pairs(pairs: PreparedData, folder: Path) -> None:
    """Write the columns that training reads. Raises OSError where the disk is full."""
    for part in PARTS:
        dataset: Dataset | None = getattr(pairs, part)
        if dataset is not None:
            dataset.remove_columns([name for name in TEXTS if name in dataset.column_names]).save_to_disk(folder / part)


def load_pairs(folder: Path) -> tuple[Dataset, Dataset | None]:
    """The train and eval pairs that ``save_pairs`` wrote."""
    from datasets import load_from_disk

    train, held_out = (load_from_disk(folder / part) if (folder / part).is_dir() else None for part in PARTS)
    return train, held_out
