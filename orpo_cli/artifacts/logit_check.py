"""Whether two models say the same: their logits on a few prompts, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Difference:
    """How far logits are from those of a reference.

    ``relative`` is the root mean square of the difference over that of the reference, with each position's mean taken
    out of the reference (softmax does not see it). ``same_argmax`` is the share of positions where the most probable
    token is the same.
    """

    max_absolute: float
    relative: float
    same_argmax: float

    def as_dict(self) -> dict[str, float]:
        """The three numbers by name."""
        return {"max_absolute": self.max_absolute, "relative": self.relative, "same_argmax": self.same_argmax}


@dataclass(frozen=True)
class Tolerance:
    """What passes: a difference within ``relative`` and ``same_argmax``, or within ``max_absolute`` where it is set."""

    relative: float
    same_argmax: float = 1.0
    max_absolute: float = 0.0

    def holds(self, difference: Difference) -> bool:
        """Whether the difference is within the tolerance; NaN never is."""
        if difference.max_absolute <= self.max_absolute:
            return True
        return difference.relative <= self.relative and difference.same_argmax >= self.same_argmax

    def text(self) -> str:
        """The limit in words."""
        words = f"{self.relative:g} relative, with the same top token at {self.same_argmax:.0%} of positions"
        return f"{self.max_absolute:g}, or {words}" if self.max_absolute else words


def logits_of(model: PreTrainedModel, prompts: list[Tensor]) -> list[Tensor]:
    """Float32 logits (tokens, vocabulary) on the CPU for each prompt."""
    import torch

    with torch.inference_mode():
        return [model(input_ids=ids.to(model.device)).logits[0].float().cpu() for ids in prompts]


def compare(reference: list[Tensor], other: list[Tensor]) -> Difference:
    """The difference of ``other`` from ``reference``, over all prompts together."""
    largest, squares, spread, same, positions = 0.0, 0.0, 0.0, 0, 0
    for expected, found in zip(reference, other, strict=True):  # (tokens, vocabulary), one prompt at a time
        difference = found - expected
        largest = _max_or_nan(largest, difference.abs().max().item())
        squares += difference.square().sum().item()
        spread += (expected - expected.mean(dim=-1, keepdim=True)).square().sum().item()
        same += int((expected.argmax(-1) == found.argmax(-1)).sum())
        positions += len(expected)
    return Difference(largest, (squares / spread) ** 0.5 if spread else float("nan"), same / positions)


def _max_or_nan(one: float, other: float) -> float:
    """The larger, or NaN where there is one: Python's own ``max`` may lose it."""
    return other if other != other or other > one else one
