"""Does the fast path compute what trl's path computes? Asked once, on the first pairs of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from orpo_cli.estimate.batching import CHECKED_PAIRS, max_checked_tokens
from orpo_cli.training.engine.packing import TokenPair, size

# Relative difference allowed. Half-precision logits are rounded before trl's softmax; ours are not.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}


class Difference(NamedTuple):
    """Relative differences of the loss and of the gradient's norms, parameter by parameter, and what is allowed."""

    loss: float
    gradient: float
    allowed: float

    @property
    def too_large(self) -> bool:
        """Whether one of them is beyond what rounding explains."""
        return not (self.loss <= self.allowed and self.gradient <= self.allowed)


def few(pairs: Sequence[TokenPair], words: int) -> list[TokenPair]:
    """The shortest of ``pairs``, cut so that trl's path, which keeps ``words`` logits a token, stays small.

    Prompts keep their end and answers their beginning, so that every part of a pair is still there.
    """
    half = max_checked_tokens(words) // 2
    shortest = sorted(pairs, key=size)[:CHECKED_PAIRS]
    return [TokenPair(pair.row, pair.prompt[-half:], pair.chosen[:half], pair.rejected[:half]) for pair in shortest]


def compare(
    model: torch.nn.Module, ours: Callable[[], torch.Tensor], theirs: Callable[[], torch.Tensor], dtype: torch.dtype
) -> Difference:
    """Loss and gradients of the same pairs by both paths. Leaves gradients, random numbers and mode as they were.

    Dropout is off meanwhile: the paths draw it differently.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    was_training = model.training
    model.eval()
    try:
        (loss, norms), (their_loss, their_norms) = (_loss_and_norms(each, trained) for each in (ours, theirs))
    finally:
        model.train(was_training)
    scale = their_norms.norm().clamp_min(torch.finfo(torch.float32).tiny)
    return Difference(
        loss=float((loss - their_loss).abs() / their_loss.abs()),
        gradient=float((norms - their_norms).norm() / scale),
        allowed=TOLERANCE[dtype],
    )


def _loss_and_norms(path: Callable[[], torch.Tensor], trained: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.enable_grad():
        loss = path()
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    norms = [torch.zeros((), device=loss.device) if each is None else each.float().norm() for each in gradients]
    return loss.detach().double(), torch.stack(norms).double()
