"""From hidden states to log-probabilities, without the logits of a whole batch.

Only places that predict something reach the head. The head of a language model is a linear map, so what a log-probability's
gradient with respect to its hidden state looks like is known in the forward pass, up to the factor that the loss will give
it: it is computed there, tile by tile, and the logits are forgotten. Memory does not grow with the vocabulary.

A head that is more than a linear map (an adapter on it, quantized weights) is run in checkpointed chunks instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch.utils.checkpoint import checkpoint

from orpo_cli.training.engine.packing import MicroBatch

# A tile of logits: predictions × words; larger on a GPU, which the launches of small ones would keep waiting.
TILE = {"cpu": (1024, 4096), "cuda": (4096, 16384)}
CHUNK_BYTES = 1 << 26  # of the logits of a chunk, where the head cannot be tiled


@dataclass(frozen=True)
class Shape:
    """What a model does to its head's logits: multiplied by ``scale``, then ``cap * tanh(logits / cap)``."""

    scale: float = 1.0
    cap: float | None = None


def shape_of(model: Any) -> Shape:
    """What ``model``, which has a head over words, does to its logits; ``engine.check`` shows whether it is all."""
    config = model.config.get_text_config()
    scale = getattr(model, "logit_scale", None)  # Cohere's
    if scale is None and (
        factor := getattr(config, "logits_scaling", None)
    ):  # Granite's divides, HyperCLOVA X's multiplies
        scale = factor if config.model_type == "hyperclovax" else 1 / factor
    return Shape(1.0 if scale is None else float(scale), getattr(config, "final_logit_softcapping", None))


@dataclass
class Scores:
    """What ``scored`` leaves: ``logps`` (N,) of the micro-batch's targets, and the mean logit at chosen's and rejected's
    inputs summed over them, (2,), where it can be had without the logits (else None).
    """

    logps: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    logits: torch.Tensor | None = None


@contextmanager
def scored(head: torch.nn.Module, shape: Shape, batch: MicroBatch) -> Iterator[Scores]:
    """Let ``head`` give log-probabilities in place of logits during a forward pass of its model.

    They are computed inside the model's own forward pass, so that whatever wraps the model (autocast, DDP, FSDP) holds for
    them. The head returns them as logits of one word, which ties them to the model's output for DDP; use ``Scores``.
    """
    scores = Scores()
    before = head.__dict__.get("forward")
    forward = head.forward

    def instead(hidden: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        wanted = hidden[0].index_select(0, batch.places)
        if _is_linear(head):
            scores.logps = _tiled(wanted, head, batch.targets, shape)
            scores.logits = _mean_logits(hidden[0], head, shape.scale, batch) if shape.cap is None else None
        else:
            scores.logps = _chunked(wanted, forward, batch.targets, shape)
        return scores.logps[None, :, None]

    head.forward = instead
    try:
        yield scores
    finally:
        if before is None:
            del head.__dict__["forward"]
        else:
            head.forward = before


def _is_linear(head: torch.nn.Module) -> TypeGuard[torch.nn.Linear]:
    """Whether the head is exactly torch's linear map, with unquantized weights."""
    return type(head) is torch.nn.Linear and head.weight.is_floating_point()


def _compute_dtype(hidden: torch.Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _tiled(hidden: torch.Tensor, head: torch.nn.Linear, targets: torch.Tensor, shape: Shape) -> torch.Tensor:
    dtype = _compute_dtype(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        bias = None if head.bias is None else head.bias.to(dtype)
        result: torch.Tensor = _LogProbs.apply(  # type: ignore[no-untyped-call]
            hidden.to(dtype), head.weight.to(dtype), bias, targets, shape
        )
    return result


def _chunked(hidden: torch.Tensor, forward: Any, targets: torch.Tensor, shape: Shape) -> torch.Tensor:
    def chunk(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = _shaped(_upcast(forward(hidden)), shape)
        return logits.gather(-1, targets[:, None]).squeeze(-1) - logits.logsumexp(-1)

    words = int(forward(hidden[:0]).shape[-1])
    rows = max(1, CHUNK_BYTES // (4 * words))
    parts = zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
    return torch.cat([checkpoint(chunk, *part, use_reentrant=False) for part in parts])


def _upcast(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype.itemsize >= 4 else logits.float()


def _shaped(logits: torch.Tensor, shape: Shape) -> torch.Tensor:
    if shape.scale != 1.0:
        logits = logits * shape.scale
    return logits if shape.cap is None else torch.tanh(logits / shape.cap) * shape.cap


def _mean_logits(hidden: torch.Tensor, head: torch.nn.Linear, scale: float, batch: MicroBatch) -> torch.Tensor:
    """The mean over words is linear in the hidden state too: one product with the mean row of the weights."""
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        mean = head.weight.mean(0, dtype=torch.float32 if hidden.dtype.itemsize < 4 else None)
        at_inputs = (_upcast(hidden) @ mean.to(_upcast(hidden).dtype))[batch.seen] * scale
        if head.bias is not None:
            at_inputs += head.bias.mean() * scale
        return torch.stack((at_inputs[: batch.seen_chosen].sum(), at_inputs[batch.seen_chosen :].sum())).double()


class _LogProbs(torch.autograd.Function):
    """log softmax(shape(hidden @ weight.T + bias))[targets], (N,); float32 at least.

    With e = exp(logits - m) and s = sum(e) over words, the gradient of a row's log-probability with respect to its hidden
    state is weight[target] - (e / s) @ weight (times the derivative of the shape): both sums run over tiles of words, with m
    the largest logit so far, as in attention's online softmax. Backward multiplies rows by the loss's factor. Only trained
    weights need the probabilities, and so the logits, a second time.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        shape: Shape,
    ) -> torch.Tensor:
        """One pass over the words for each block of rows."""
        precise = _upcast(hidden[:0]).dtype
        needed = ctx.needs_input_grad[0]
        logps, norms = (torch.empty(len(hidden), dtype=precise, device=hidden.device) for _ in range(2))
        direction = torch.empty_like(hidden) if needed else None
        for rows in _blocks(hidden):
            part = hidden[rows]
            largest = torch.full((len(part), 1), float("-inf"), dtype=precise, device=hidden.device)
            total = torch.zeros_like(largest)
            expected = torch.zeros(part.shape, dtype=precise, device=hidden.device) if needed else None
            for _, weights, logits in _tiles(part, weight, bias):
                capped, slope = _with_slope(_upcast(logits), shape)
                larger = torch.maximum(largest, capped.amax(1, keepdim=True))
                shrink = torch.exp(largest - larger)
                exponents = capped.sub_(larger).exp_()
                total.mul_(shrink).add_(exponents.sum(1, keepdim=True))
                if expected is not None:
                    weighed = exponents if slope is None else exponents.mul_(slope)
                    expected.mul_(shrink).add_(weighed.to(weights.dtype) @ weights)
                largest = larger
            norms[rows] = (largest + total.log()).squeeze(1)
            own = weight[targets[rows]]
            raw = (part * own).sum(1, dtype=precise)
            if bias is not None:
                raw = raw + bias[targets[rows]]
            capped, slope = _with_slope(raw, shape)
            logps[rows] = capped - norms[rows]
            if direction is not None and expected is not None:
                factor = shape.scale if slope is None else slope[:, None] * shape.scale
                direction[rows] = own * factor - expected / total * shape.scale
        ctx.shape = shape
        ctx.save_for_backward(hidden, weight, bias, targets, norms, direction)
        return logps

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """``grad`` (N,) is the loss's factor of each log-probability."""
        hidden, weight, bias, targets, norms, direction = ctx.saved_tensors
        grads: list[torch.Tensor | None] = [None, None, None]
        if direction is not None:
            grads[0] = direction * grad[:, None].to(direction.dtype)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            grads[1:] = _weight_gradients(hidden, weight, bias, targets, norms, grad, ctx.shape)
        return (*grads, None, None)


def _tile(hidden: torch.Tensor) -> tuple[int, int]:
    return TILE.get(hidden.device.type, TILE["cpu"])


def spans(length: int, size: int) -> list[slice]:
    """``length`` places, ``size`` at a time; the last span ends where they end."""
    return [slice(at, min(at + size, length)) for at in range(0, length, size)]


def _blocks(hidden: torch.Tensor) -> list[slice]:
    """Rows that are computed together, one block after the other."""
    return spans(len(hidden), _tile(hidden)[0])


def _tiles(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """(words, their weights, their raw logits), a tile of words after the other."""
    for tile in spans(len(weight), _tile(hidden)[1]):
        logits = hidden @ weight[tile].T
        if bias is not None:
            logits += bias[tile]
        yield tile, weight[tile], logits


def _with_slope(logits: torch.Tensor, shape: Shape) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The shaped logits, in place where possible, and the derivative of the cap (None without one)."""
    if shape.scale != 1.0:
        logits = logits.mul_(shape.scale)
    if shape.cap is None:
        return logits, None
    bent = torch.tanh(logits / shape.cap)
    return bent * shape.cap, 1 - bent * bent


def _weight_gradients(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    norms: torch.Tensor,
    grad: torch.Tensor,
    shape: Shape,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    of_weight = torch.zeros_like(weight)
    of_bias = None if bias is None else torch.zeros_like(bias)
    for rows in _blocks(hidden):
        part, factor = hidden[rows], grad[rows, None] * shape.scale
        for tile, _, logits in _tiles(part, weight, bias):
            capped, slope = _with_slope(_upcast(logits), shape)
            change = capped.sub_(norms[rows, None]).exp_().neg_()  # -probability
            inside = (targets[rows] >= tile.start) & (targets[rows] < tile.stop)
            place = inside.nonzero().squeeze(1)
            change[place, targets[rows][place] - tile.start] += 1
            if slope is not None:
                change.mul_(slope)
            change = change.mul_(factor).to(weight.dtype)
            of_weight[tile] += change.T @ part
            if of_bias is not None:
                of_bias[tile] += change.sum(0)
    return of_weight, of_bias
