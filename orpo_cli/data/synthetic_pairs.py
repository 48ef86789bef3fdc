"""Synthetic pairs for a smoke run whose data cannot be downloaded."""

from __future__ import annotations

import json
from pathlib import Path


def write_synthetic_pairs(folder: Path, count: int) -> Path:
    """Write ``train.jsonl`` and ``eval.jsonl`` to ``folder``, with ``count`` different pairs each."""
    folder.mkdir()
    for name, start in (("train.jsonl", 0), ("eval.jsonl", count)):
        rows = [json.dumps(_pair(number)) + "\n" for number in range(start, start + count)]
        (folder / name).write_text("".join(rows), encoding="utf-8")
    return folder


def _pair(number: int) -> dict[str, list[dict[str, str]]]:
    question = f"What is {number} plus {number}?" + " Please tell me." * (number % 3)
    wrong = f"One might say {number}, or not." + " Who knows." * (number % 4)
    return {
        "prompt": [{"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": f"It is {2 * number}."}],
        "rejected": [{"role": "assistant", "content": wrong}],
    }
