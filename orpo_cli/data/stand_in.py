"""Made-up pairs, for where the code is to be tried and the data cannot be had: `orpo train --smoke`."""

from __future__ import annotations

import json
from pathlib import Path


def write_made_up_pairs(path: Path, count: int) -> Path:
    """``count`` different conversations of a line each as a jsonl file."""
    rows = (
        {
            "prompt": [
                {"role": "user", "content": f"What is {number} plus {number}?" + " Please tell me." * (number % 3)}
            ],
            "chosen": [{"role": "assistant", "content": f"It is {2 * number}."}],
            "rejected": [
                {"role": "assistant", "content": f"One might say {number}, or not." + " Who knows." * (number % 4)}
            ],
        }
        for number in range(count)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
