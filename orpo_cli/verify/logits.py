"""Whether two models say the same: their logits on a few prompts, side by side."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LogitPair:
    """A logit of both models: that of ``token`` after the token at ``position`` of ``prompt``, which count from 1."""

    prompt: int
    position: int
    token: int
    reference: float
    found: float


@dataclass(frozen=True)
class Difference:
    """How far logits are from those of a reference.

    ``relative`` is the root mean square of the difference over that of the reference, with each position's mean taken
    out of the reference (softmax does not see it). ``same_argmax`` is the share of positions where the most probable
    token is the same. ``largest`` is the pair of logits that ``max_absolute`` is between.
    """

    max_absolute: float
    relative: float
    same_argmax: float
    largest: LogitPair | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values by name."""
        return asdict(self)

    def text(self) -> str:
        """The difference in one sentence, without its end."""
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
    """What passes: a difference within ``relative`` and ``same_argmax``, or within ``max_absolute`` where it is set."""

    relative: float
    same_argmax: float = 1.0
    max_absolute: float = 0.0

    def allows(self, difference: Difference) -> bool:
        """Whether the difference is within the tolerance; NaN never is."""
        if difference.max_absolute <= self.max_absolute:
            return True
        return difference.relative <= self.relative and difference.same_argmax >= self.same_argmax

    def text(self) -> str:
        """The limit in words."""
        words = f"{self.relative:g} relative, with the same top token at {self.same_argmax:.0%} of positions"
        return f"{self.max_absolute:g}, or {words}" if self.max_absolute else words


def compute_logits(model: PreTrainedModel, prompts: list[Tensor]) -> list[Tensor]:
    """Float32 logits (tokens, vocabulary) on the CPU for each prompt."""
    import torch

    with torch.inference_mode():
        return [model(input_ids=ids.to(model.device)).logits[0].float().cpu() for ids in prompts]


def compare_logits(reference: list[Tensor], other: list[Tensor]) -> Difference:
    """The difference of ``other`` from ``reference``, over all prompts together."""
    largest: LogitPair | None = None
    max_absolute, squares, spread, same, positions = 0.0, 0.0, 0.0, 0, 0
    for prompt, (expected, found) in enumerate(zip(reference, other, strict=True), start=1):  # (tokens, vocabulary)
        difference = found - expected
        squares += difference.square().sum().item()
        apart = difference.abs_()
        row, token = divmod(int(apart.argmax()), apart.shape[-1])  # of NaN, where there is one
        if largest is None or _is_larger(apart[row, token].item(), max_absolute):
            max_absolute = apart[row, token].item()
            largest = LogitPair(prompt, row + 1, token, expected[row, token].item(), found[row, token].item())
        spread += (expected - expected.mean(dim=-1, keepdim=True)).square().sum().item()
        same += int((expected.argmax(-1) == found.argmax(-1)).sum())
        positions += len(expected)
    relative = (squares / spread) ** 0.5 if spread else float("nan")
    return Difference(max_absolute, relative, same / positions, largest)


def _is_larger(one: float, other: float) -> bool:
    """Whether ``one`` is larger; NaN is larger than any number, which Python's own comparison denies."""
    return one != one or one > other
