"""Synthetic pairs for a smoke run whose data cannot be downloaded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path


def write_synthetic_pairs(folder: Path, count: int) -> Path:
    """Write ``train.jsonl`` and ``eval.jsonl`` to ``folder``, with ``count`` different pairs each."""
    folder.mkdir()
    _write(folder / "train.jsonl", range(count))
    _write(folder / "eval.jsonl", range(count, 2 * count))
    return folder


def _write(path: Path, numbers: Iterable[int]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number in numbers:
            question = f"What is {number} plus {number}?" + " Please tell me." * (number % 3)
            wrong = f"One might say {number}, or not." + " Who knows." * (number % 4)
            row = {
                "prompt": [{"role": "user", "content": question}],
                "chosen": [{"role": "assistant", "content": f"It is {2 * number}."}],
                "rejected": [{"role": "assistant", "content": wrong}],
            }
            file.write(json.dumps(row) + "\n")
