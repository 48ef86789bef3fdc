"""Figures of the pairs that would be trained on, from the lengths in their table: nothing here reads a token."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from orpo_cli.data.dedup_and_split import find_duplicates
from orpo_cli.data.table import PairTable

if TYPE_CHECKING:
    from orpo_cli.data.table import Numbers

PERCENTILES = (5, 25, 50, 75, 90, 95, 99)
MAX_LENGTHS = (
    256,
    512,
    1024,
    2048,
    4096,
    8192,
)  # max_lengths that the share of cut pairs is told for, beside the recipe's
BINS = 20
LENGTH_BIAS_THRESHOLD = 0.1  # a correlation of answer length and preference from which on the data teaches length


@dataclass(frozen=True)
class LengthBias:
    """How preference goes with length (tokens of the answers, before cutting).

    ``correlation`` is that of "is the chosen one" with the length, over all answers: 0 where length says nothing.
    """

    chosen_longer: float  # share of pairs
    rejected_longer: float
    mean_difference: float  # chosen minus rejected, tokens
    correlation: float

    @property
    def warning(self) -> str | None:
        """What to look out for, where it is much."""
        if abs(self.correlation) < LENGTH_BIAS_THRESHOLD:
            return None
        longer = "longer" if self.correlation > 0 else "shorter"
        return f"chosen answers are {longer}: the model may learn length instead of quality"


@dataclass(frozen=True)
class Audit:
    """What `orpo data` says of one part, train or eval. Lengths are tokens."""

    pairs: int
    lengths: dict[str, dict[str, float]]  # prompt, chosen, rejected, sequence (the longer of both, with its prompt)
    histogram: dict[str, list[int]]  # edges (one more than counts) and counts of the uncut sequences
    cut: dict[int, float]  # max_length → share of pairs that are longer
    length_bias: LengthBias
    same_prompt: int  # pairs whose prompt came before
    tokens: int  # each prompt once, both answers
    tokens_of_two_passes: int  # each prompt with each answer, as trl computes them

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            **asdict(self),
            "cut": {str(length): share for length, share in self.cut.items()},
            "length_bias": {**asdict(self.length_bias), "warning": self.length_bias.warning},
        }


def audit(table: PairTable, max_length: int) -> Audit:
    """The figures of ``table``, whose pairs were cut to ``max_length``."""
    prompt, chosen, rejected = (table.token_counts(part) for part in ("prompt", "chosen", "rejected"))
    whole_prompt, whole_chosen, whole_rejected = (
        table.full_token_counts(part) for part in ("prompt", "chosen", "rejected")
    )
    sequences = whole_prompt + np.maximum(whole_chosen, whole_rejected)
    counts, edges = np.histogram(sequences, bins=BINS)
    return Audit(
        pairs=len(table),
        lengths={
            "prompt": length_percentiles(prompt),
            "chosen": length_percentiles(chosen),
            "rejected": length_percentiles(rejected),
            "sequence": length_percentiles(prompt + np.maximum(chosen, rejected)),
        },
        histogram={"edges": [round(edge) for edge in edges], "counts": counts.tolist()},
        cut={length: float((sequences > length).mean()) for length in sorted({*MAX_LENGTHS, max_length})},
        length_bias=length_bias(whole_chosen, whole_rejected),
        same_prompt=sum(1 for _ in find_duplicates(table, "prompt_key")),
        tokens=int((prompt + chosen + rejected).sum()),
        tokens_of_two_passes=int((2 * prompt + chosen + rejected).sum()),
    )


def length_percentiles(lengths: Numbers) -> dict[str, float]:
    """Mean, nearest-rank percentiles and maximum."""
    ranks = np.percentile(lengths, PERCENTILES, method="inverted_cdf")
    return {
        "mean": round(float(lengths.mean()), 1),
        **{f"p{rank}": int(value) for rank, value in zip(PERCENTILES, ranks, strict=True)},
        "max": int(lengths.max()),
    }


def length_bias(chosen: Numbers, rejected: Numbers) -> LengthBias:
    """How preference goes with the lengths of the answers."""
    lengths = np.concatenate([chosen, rejected]).astype(np.float64)
    preferred = np.repeat([1.0, 0.0], len(chosen))
    varies = lengths.std() > 0
    return LengthBias(
        chosen_longer=float((chosen > rejected).mean()),
        rejected_longer=float((chosen < rejected).mean()),
        mean_difference=round(float((chosen - rejected).mean()), 1),
        correlation=round(float(np.corrcoef(lengths, preferred)[0, 1]), 3) if varies else 0.0,
    )
