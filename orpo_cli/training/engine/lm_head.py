"""Language-model head: log-probabilities of target tokens from hidden states, without the logits of a batch in memory.

Only positions that predict something reach the head: hidden states (N, hidden_size) and targets (N,) give log_probs (N,).
A plain linear head is computed tile by tile over the vocabulary (``LinearLogProbs``). Its gradient with respect to the
hidden states is known in the forward pass up to the factor that the loss gives each log-probability, so it is computed
there and the logits are dropped: memory does not grow with vocab_size. (Cut Cross-Entropy, arXiv 2411.09009, tiles the same
way, but recomputes the logits for every gradient.)

A head that is more than a linear map (an adapter on it, quantized weights) runs in checkpointed chunks of positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.weak import WeakIdKeyDictionary

from orpo_cli.model.vector_math import exp_
from orpo_cli.training.engine.packing import MicroBatch

# Positions × vocabulary entries of a tile of logits. Larger on a GPU, where small kernels are bound by their launches.
TILE_SIZES = {"cpu": (1024, 4096), "cuda": (4096, 16384)}
CHUNK_BYTES = 1 << 26  # of the logits of a chunk, where the head cannot be tiled


@dataclass(frozen=True)
class LogitTransform:
    """What a model does to its head's logits: multiply by ``scale``, then ``softcap * tanh(logits / softcap)``."""

    scale: float = 1.0
    softcap: float | None = None


def logit_transform(model: Any) -> LogitTransform:
    """The transform of ``model``, a causal language model. ``parity_check`` finds a model that does more than this."""
    config = model.config.get_text_config()
    scale = getattr(model, "logit_scale", None)  # Cohere
    if scale is None and (factor := getattr(config, "logits_scaling", None)):
        scale = factor if config.model_type == "hyperclovax" else 1 / factor  # Granite divides
    return LogitTransform(1.0 if scale is None else float(scale), getattr(config, "final_logit_softcapping", None))


@dataclass
class HeadOutput:
    """Results of ``patched_lm_head``: ``log_probs`` (N,) of the targets; ``logit_sums`` (2,), the mean logit over the
    vocabulary summed over chosen's and over rejected's inputs, or None where that needs the logits themselves.
    """

    log_probs: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    logit_sums: torch.Tensor | None = None


class PackedHead:
    """Forward function of ``head``: log-probabilities instead of logits, of the micro-batch of the thread."""

    def __init__(self, head: torch.nn.Module, transform: LogitTransform) -> None:
        self.head, self.transform, self.forward = head, transform, head.forward

    def __call__(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """The log-probabilities of the targets as logits of a one-token vocabulary; ``forward_packed`` makes them part of the loss."""
        head, transform, (batch, output) = self.head, self.transform, _current.get()
        predicting = hidden_states[0].index_select(0, batch.predict_positions)
        if _is_plain_linear(head) and head.weight.is_floating_point():
            output.log_probs = _tiled_log_probs(predicting, head, batch.targets, transform)
            if transform.softcap is None:
                output.logit_sums = _logit_sums(hidden_states[0], head, transform.scale, batch)
        else:
            output.log_probs = _chunked_log_probs(predicting, self.forward, batch.targets, transform)
        return output.log_probs[None, :, None].clone()  # FSDP2 warns about views


_current: ContextVar[tuple[MicroBatch, HeadOutput]] = ContextVar("micro-batch and output of a head in its forward pass")


@contextmanager
def use_packed_head(head: torch.nn.Module, transform: LogitTransform) -> Iterator[None]:
    """Context of forward passes, each within ``patched_lm_head``, which does the same for one."""
    before = head.__dict__.get("forward")
    if isinstance(before, PackedHead):
        yield
        return
    head.forward = PackedHead(head, transform)
    try:
        yield
    finally:
        if before is None:
            del head.__dict__["forward"]
        else:
            head.forward = before


@contextmanager
def patched_lm_head(head: torch.nn.Module, transform: LogitTransform, batch: MicroBatch) -> Iterator[HeadOutput]:
    """Context of a forward pass: ``head`` computes log-probabilities instead of logits.

    This happens inside the model's own forward pass, so that autocast and FSDP apply to it.
    """
    output = HeadOutput()
    token = _current.set((batch, output))
    try:
        with use_packed_head(head, transform):
            yield output
    finally:
        _current.reset(token)


def _is_plain_linear(head: torch.nn.Module) -> TypeGuard[torch.nn.Linear]:
    """Whether ``head`` computes what torch.nn.Linear does. FSDP2 gives a sharded module a subclass of its class."""
    return isinstance(head, torch.nn.Linear) and type(head).forward is torch.nn.Linear.forward


def _tiled_log_probs(
    hidden_states: torch.Tensor, head: torch.nn.Linear, targets: torch.Tensor, transform: LogitTransform
) -> torch.Tensor:
    device_type = hidden_states.device.type
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else hidden_states.dtype
    with torch.autocast(device_type, enabled=False):
        bias = None if head.bias is None else head.bias.to(dtype)
        log_probs: torch.Tensor = LinearLogProbs.apply(  # type: ignore[no-untyped-call]
            hidden_states.to(dtype), head.weight.to(dtype), bias, targets, transform
        )
    return log_probs


def _chunked_log_probs(
    hidden_states: torch.Tensor, forward: Any, targets: torch.Tensor, transform: LogitTransform
) -> torch.Tensor:
    def chunk_log_probs(hidden_states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = _transform_logits(_upcast(forward(hidden_states)), transform)
        return logits.gather(-1, targets[:, None]).squeeze(-1) - logits.logsumexp(-1)

    vocab_size = int(forward(hidden_states[:0]).shape[-1])
    rows = max(1, CHUNK_BYTES // (4 * vocab_size))
    chunks = zip(torch.split(hidden_states, rows), torch.split(targets, rows), strict=True)
    return torch.cat([checkpoint(chunk_log_probs, *chunk, use_reentrant=False) for chunk in chunks])


def _upcast(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype.itemsize >= 4 else logits.float()


def _transform_logits(logits: torch.Tensor, transform: LogitTransform) -> torch.Tensor:
    if transform.scale != 1.0:
        logits = logits * transform.scale
    return logits if transform.softcap is None else torch.tanh(logits / transform.softcap) * transform.softcap


_mean_rows: Any = WeakIdKeyDictionary()  # of frozen weights: their version and mean row


def _mean_row(weight: torch.Tensor) -> torch.Tensor:
    """The mean over the vocabulary, (hidden_size,), in float32 at least; computed once for a frozen weight."""
    mean: torch.Tensor | None
    version, mean = (None, None) if weight.requires_grad else _mean_rows.get(weight, (None, None))
    if mean is None or version != weight._version or mean.device != weight.device:
        mean = weight.mean(0, dtype=torch.float32 if weight.dtype.itemsize < 4 else None)
        _mean_rows[weight] = weight._version, mean
    return mean


def _logit_sums(hidden_states: torch.Tensor, head: torch.nn.Linear, scale: float, batch: MicroBatch) -> torch.Tensor:
    """The mean over the vocabulary is linear in the hidden state: one product with the mean row of the weight."""
    with torch.no_grad(), torch.autocast(hidden_states.device.type, enabled=False):
        mean = _mean_row(head.weight)
        means = (_upcast(hidden_states) @ mean.to(_upcast(hidden_states).dtype))[batch.input_positions] * scale
        if head.bias is not None:
            means += head.bias.mean() * scale
        return torch.stack((means[: batch.num_chosen_inputs].sum(), means[batch.num_chosen_inputs :].sum())).double()


class LinearLogProbs(torch.autograd.Function):
    """log_softmax(f(hidden_states @ weight.T + bias))[targets], (N,), in float32 at least; f is the ``LogitTransform``.

    With z the logits of a row, m their maximum, e = exp(z - m) and s = sum(e) over the vocabulary:

        log p(t) = z_t - (m + log s),        d log p(t) / d hidden = f'(z_t) weight[t] - (1 / s) sum_v e_v f'(z_v) weight[v].

    Both sums run over tiles of the vocabulary with m the maximum so far: a larger m rescales them by exp(m_old - m_new), the
    online softmax of FlashAttention (arXiv 2205.14135, section 3.1). Backward multiplies the saved d log p / d hidden by the
    gradient of each log-probability. Only a trained weight or bias needs the probabilities, and so the logits, again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        transform: LogitTransform,
    ) -> torch.Tensor:
        """One pass over the vocabulary for each block of rows. Saves the log-normalizers and d log p / d hidden."""
        dtype = _upcast(hidden_states[:0]).dtype
        needs_gradient = ctx.needs_input_grad[0]
        log_probs, log_norms = (
            torch.empty(len(hidden_states), dtype=dtype, device=hidden_states.device) for _ in range(2)
        )
        gradient = torch.empty_like(hidden_states) if needs_gradient else None
        for rows in _row_blocks(hidden_states):
            block = hidden_states[rows]
            maximum = torch.full((len(block), 1), float("-inf"), dtype=dtype, device=hidden_states.device)
            total = torch.zeros_like(maximum)
            expected = torch.zeros(block.shape, dtype=dtype, device=hidden_states.device) if needs_gradient else None
            for _, tile_weight, logits in _vocab_tiles(block, weight, bias):
                capped, slope = _transform_with_slope(_upcast(logits), transform)
                larger = torch.maximum(maximum, capped.amax(1, keepdim=True))
                rescale = torch.exp(maximum - larger)
                exponentials = exp_(capped.sub_(larger))
                total.mul_(rescale).add_(exponentials.sum(1, keepdim=True))
                if expected is not None:
                    weighted = exponentials if slope is None else exponentials.mul_(slope)
                    expected.mul_(rescale).add_(weighted.to(tile_weight.dtype) @ tile_weight)
                maximum = larger
            log_norms[rows] = (maximum + total.log()).squeeze(1)
            target_weight = weight[targets[rows]]
            target_logits = (block * target_weight).sum(1, dtype=dtype)
            if bias is not None:
                target_logits = target_logits + bias[targets[rows]]
            capped, slope = _transform_with_slope(target_logits, transform)
            log_probs[rows] = capped - log_norms[rows]
            if gradient is not None and expected is not None:
                factor = transform.scale if slope is None else slope[:, None] * transform.scale
                gradient[rows] = target_weight * factor - expected / total * transform.scale
        ctx.transform = transform
        ctx.save_for_backward(hidden_states, weight, bias, targets, log_norms, gradient)
        return log_probs

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """``grad`` (N,): the loss's gradient of each log-probability."""
        *saved, gradient = ctx.saved_tensors
        grads: list[torch.Tensor | None] = [None, None, None]
        if gradient is not None:
            grads[0] = gradient * grad[:, None].to(gradient.dtype)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            grads[1:] = _weight_gradients(saved, grad, ctx.transform)
        return (*grads, None, None)


def split_range(length: int, size: int) -> list[slice]:
    """Slices of ``size`` that cover range(length); the last may be shorter."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _row_blocks(hidden_states: torch.Tensor) -> list[slice]:
    return split_range(len(hidden_states), TILE_SIZES["cuda" if hidden_states.is_cuda else "cpu"][0])


def _vocab_tiles(
    hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """(token ids, their weight rows, their logits before the transform), tile by tile over the vocabulary."""
    for tile in split_range(len(weight), TILE_SIZES["cuda" if hidden_states.is_cuda else "cpu"][1]):
        logits = hidden_states @ weight[tile].T
        if bias is not None:
            logits += bias[tile]
        yield tile, weight[tile], logits


def _transform_with_slope(logits: torch.Tensor, transform: LogitTransform) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The transformed logits, in place where possible, and the derivative of the softcap (None without one)."""
    if transform.scale != 1.0:
        logits = logits.mul_(transform.scale)
    if transform.softcap is None:
        return logits, None
    tanh = torch.tanh(logits / transform.softcap)
    return tanh * transform.softcap, 1 - tanh * tanh


def _weight_gradients(
    saved: list[Any], grad: torch.Tensor, transform: LogitTransform
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gradients of weight (vocab_size, hidden_size) and bias: d log p(t) / d z_v = [v = t] - p(v), times f'(z_v)."""
    hidden_states, weight, bias, targets, log_norms = saved
    grad_weight = torch.zeros_like(weight)
    grad_bias = None if bias is None else torch.zeros_like(bias)
    for rows in _row_blocks(hidden_states):
        block, factor = hidden_states[rows], grad[rows, None] * transform.scale
        for tile, _, logits in _vocab_tiles(block, weight, bias):
            capped, slope = _transform_with_slope(_upcast(logits), transform)
            grad_logits = exp_(capped.sub_(log_norms[rows, None])).neg_()  # -p(v)
            in_tile = (targets[rows] >= tile.start) & (targets[rows] < tile.stop)
            target_rows = in_tile.nonzero().squeeze(1)
            grad_logits[target_rows, targets[rows][target_rows] - tile.start] += 1
            if slope is not None:
                grad_logits.mul_(slope)
            grad_logits = grad_logits.mul_(factor).to(weight.dtype)
            grad_weight[tile] += grad_logits.T @ block
            if grad_bias is not None:
                grad_bias[tile] += grad_logits.sum(0)
    return grad_weight, grad_bias
