"""Logit comparison: how far the logits of two models differ on the same prompts, and how much is allowed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LogitPair:
    """One logit of both models: for ``token`` after the token at ``position`` of ``prompt``; both count from 1."""

    prompt: int
    position: int
    token: int
    reference: float
    found: float


@dataclass(frozen=True)
class Difference:
    """Difference between the logits of a model and those of a reference.

    ``relative``: root mean square of the difference, divided by that of the reference logits. The mean of each position
    is subtracted from the reference first, because softmax ignores it. ``same_argmax``: fraction of positions with the
    same most probable token. ``largest``: the two logits with the difference ``max_absolute``.
    """

    max_absolute: float
    relative: float
    same_argmax: float
    largest: LogitPair | None = None

    def as_dict(self) -> dict[str, Any]:
        """Values for JSON."""
        return asdict(self)

    def text(self) -> str:
        """The difference as a sentence without a full stop."""
        sentence = (
            f"logits differ by {self.max_absolute:.2g} (relative {self.relative:.2g}, same top token at "
            f"{self.same_argmax:.0%} of positions)"
        )
        if self.largest is None:
            return sentence
        pair = self.largest
        return (
            f"{sentence}, most at position {pair.position} of prompt {pair.prompt}, where the logit of token {pair.token} is "
            f"{pair.found:.7g} instead of {pair.reference:.7g}"
        )


@dataclass(frozen=True)
class Tolerance:
    """Largest difference that passes: within ``relative`` and ``same_argmax``, or within ``max_absolute`` if it is set."""

    relative: float
    same_argmax: float = 1.0
    max_absolute: float = 0.0

    def allows(self, difference: Difference) -> bool:
        """Whether the difference is within the tolerance. NaN is not."""
        if difference.max_absolute <= self.max_absolute:
            return True
        return difference.relative <= self.relative and difference.same_argmax >= self.same_argmax

    def text(self) -> str:
        """The limit as text."""
        limit = f"{self.relative:g} relative, with the same top token at {self.same_argmax:.0%} of positions"
        return f"{self.max_absolute:g}, or {limit}" if self.max_absolute else limit


def compute_logits(model: PreTrainedModel, prompts: list[Tensor]) -> list[Tensor]:
    """Float32 logits on the CPU for each prompt. Shape of each: (tokens, vocab_size)."""
    import torch

    with torch.inference_mode():
        return [model(input_ids=ids.to(model.device)).logits[0].float().cpu() for ids in prompts]


def compare_logits(reference: list[Tensor], other: list[Tensor]) -> Difference:
    """The difference of ``other`` from ``reference`` over all prompts."""
    largest: LogitPair | None = None
    max_absolute, squared_error, variance, same, positions = 0.0, 0.0, 0.0, 0, 0
    for prompt, (expected, found) in enumerate(zip(reference, other, strict=True), start=1):  # (tokens, vocab_size)
        difference = found - expected
        squared_error += difference.square().sum().item()
        absolute = difference.abs_()
        row, token = divmod(int(absolute.argmax()), absolute.shape[-1])  # argmax finds NaN first
        if largest is None or _is_larger(absolute[row, token].item(), max_absolute):
            max_absolute = absolute[row, token].item()
            largest = LogitPair(prompt, row + 1, token, expected[row, token].item(), found[row, token].item())
        variance += (expected - expected.mean(dim=-1, keepdim=True)).square().sum().item()
        same += int((expected.argmax(-1) == found.argmax(-1)).sum())
        positions += len(expected)
    relative = (squared_error / variance) ** 0.5 if variance else float("nan")
    return Difference(max_absolute, relative, same / positions, largest)


def _is_larger(one: float, other: float) -> bool:
    """Whether ``one`` is larger, where NaN counts as larger than any number."""
    return one != one or one > other
