"""Random preference pairs as token ids, in the columns of the prepared data."""

from __future__ import annotations

from typing import Any

import torch

VOCABULARY = 97


def random_rows(count: int) -> list[dict[str, Any]]:
    """Pairs of several lengths; the completions of every second one begin with the same tokens."""
    generator = torch.Generator().manual_seed(0)

    def draw(longest: int) -> list[int]:
        size = int(torch.randint(1, longest + 1, (1,), generator=generator))
        return torch.randint(3, VOCABULARY, (size,), generator=generator).tolist()

    rows = []
    for index in range(count):
        prompt, chosen, rejected, shared = draw(30), draw(12), draw(30), draw(4) if index % 2 else []
        rows.append(
            {
                "pair": index, "row": f"row {index}", "prompt_input_ids": prompt,
                "chosen_answer_ids": shared + chosen, "rejected_answer_ids": shared + rejected,
            }
        )  # fmt: skip
    return rows
