"""Parity check of the packed step against trl's own path: loss and gradients of the first pairs of a run, once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from orpo_cli.estimate.batching import CHECKED_PAIRS, max_checked_tokens
from orpo_cli.training.engine.packing import TokenPair, packed_length
from orpo_cli.training.full_state import full_tensor

# Relative difference allowed. trl rounds half-precision logits before its softmax; the engine does not.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}


def select_check_pairs(pairs: Sequence[TokenPair], vocab_size: int) -> list[TokenPair]:
    """The shortest of ``pairs``, truncated so that trl's path, which keeps vocab_size logits a token, stays small.

    Prompts keep their end and completions their start, so that every part of a pair is still there.
    """
    half = max_checked_tokens(vocab_size) // 2
    shortest = sorted(pairs, key=packed_length)[:CHECKED_PAIRS]
    return [
        pair._replace(prompt=pair.prompt[-half:], chosen=pair.chosen[:half], rejected=pair.rejected[:half])
        for pair in shortest
    ]


def compare_paths(
    model: torch.nn.Module,
    packed_loss: Callable[[], torch.Tensor],
    trl_loss: Callable[[], torch.Tensor],
    dtype: torch.dtype,
) -> str | None:
    """Compare loss and gradients of the same pairs by both paths; the difference, or None where rounding explains it.

    All ranks call it with sharded weights: the gradients are then means over their pairs.
    With ZeRO-3 the losses alone are compared. Leaves gradients, random state and training mode unchanged. The model is in evaluation mode meanwhile: the paths would draw other dropout masks.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    was_training = model.training
    model.eval()
    try:
        (loss, norms), (expected_loss, expected_norms) = (
            _loss_and_norms(compute, trained) for compute in (packed_loss, trl_loss)
        )
    finally:
        model.train(was_training)
    scale = expected_norms.norm().clamp_min(torch.finfo(torch.float32).tiny)
    loss_difference = float((loss - expected_loss).abs() / expected_loss.abs())
    gradient_difference = float((norms - expected_norms).norm() / scale)
    tolerance = TOLERANCE[dtype]
    if loss_difference <= tolerance and gradient_difference <= tolerance:  # both False for not a number
        return None
    return (
        f"the loss differs by {loss_difference:.1e} and the gradient by {gradient_difference:.1e}, relatively; "
        f"{tolerance:.0e} is allowed"
    )


def _loss_and_norms(compute_loss: Callable[[], torch.Tensor], trained: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    partitioned = hasattr(trained[0], "ds_id")  # by ZeRO-3, whose gradients exist in its own backward pass only
    with torch.set_grad_enabled(not partitioned):
        loss = compute_loss()
        gradients = [None] * len(trained) if partitioned else _gradients(loss, trained)
    norms = [
        torch.zeros((), device=loss.device) if each is None else full_tensor(each.float().norm()).to(loss.device)
        for each in gradients
    ]
    return loss.detach().double(), torch.stack(norms).double()


def _gradients(loss: torch.Tensor, trained: list[Any]) -> list[torch.Tensor | None]:
    if not isinstance(trained[0], DTensor):
        return list(torch.autograd.grad(loss, trained, allow_unused=True))
    loss.backward()  # type: ignore[no-untyped-call]  # FSDP2 has no other way to shards
    gradients = [parameter.grad for parameter in trained]
    for parameter in trained:
        parameter.grad = None
    return gradients
