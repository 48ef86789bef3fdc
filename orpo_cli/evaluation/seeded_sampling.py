"""Seeded sampling: random numbers of its own for each prompt, so that a completion does not depend on the other prompts.

With the random state of the process, as ``generate`` uses it, a completion depends on the rows of its batch and on all batches
before it: a generation that is interrupted and continued would differ from one that is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, TopPLogitsWarper


def prompt_seed(seed: int, index: int) -> int:
    """Seed of the prompt at ``index``, below 2**63."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()) >> 1


def uniforms_of_prompts(seed: int, indices: Sequence[int], count: int) -> torch.Tensor:
    """``count`` random numbers in [0, 1) for each prompt, from the seed and the prompt's index: float64, a row per prompt."""
    rows = []
    for index in indices:
        generator = torch.Generator().manual_seed(prompt_seed(seed, index))
        rows.append(torch.rand(count, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


class SeededSampling(LogitsProcessor):
    """Logits processor that draws each row's token with that row's random number: only the drawn token keeps a finite score.

    ``uniforms`` has a row per sequence and a column per new token; ``prompt_length`` is that of the padded prompts.
    """

    def __init__(self, temperature: float, top_p: float, uniforms: torch.Tensor, prompt_length: int) -> None:
        self.temperature = temperature
        self.top_p = TopPLogitsWarper(top_p) if top_p < 1 else None
        self.uniforms = uniforms
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores of 0 for the drawn tokens and of -inf for all others."""
        # in float64, where a sum of 150,000 probabilities is exact enough; Apple's GPUs have no float64
        values = (scores.cpu() if scores.device.type == "mps" else scores) / self.temperature
        if self.top_p is not None:
            values = self.top_p(input_ids, values)
        cumulative = values.double().softmax(-1).cumsum(-1)
        drawn = self.uniforms[:, input_ids.shape[1] - self.prompt_length].to(cumulative.device)
        total = cumulative[:, -1]
        target = torch.minimum(drawn * total, torch.nextafter(total, torch.zeros_like(total)))
        token = torch.searchsorted(cumulative, target[:, None], right=True)  # the first whose sum is above the target
        return torch.full_like(scores, -torch.inf).scatter_(1, token.to(scores.device), 0.0)
