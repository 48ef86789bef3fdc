"""Attention of a packed row by blocks of keys, with memory that grows linearly with the tokens of the row.

Each block of keys is one call of torch's FlashAttention for CPUs, which stores no scores, or of ``onednn_attention``; the outputs of the blocks of a query
are merged by their log-sum-exp. Softcapped scores, and devices other than a CPU, are computed from scores, as many at a time
as MAX_STORED_SCORES.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad

from orpo_cli.model.vector_math import exp_
from orpo_cli.training.engine import onednn_attention
from orpo_cli.training.engine.attention_blocks import BlockPlan, KeyBlock, QueryBlock

flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

MAX_STORED_SCORES = 1 << 22  # of all heads


def block_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    plan: BlockPlan,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of a row: query (1, heads, T, head_dim), key and value (1, kv_heads, T, head_dim) give (1, T, heads, head_dim).

    ``sinks`` (heads,): a score without a value in each head's softmax. The segments of the plan cover the row.
    """
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = (each.to(dtype) for each in (query, key, value))
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    width, missing = value.shape[-1], query.shape[-1] - value.shape[-1]
    if missing:  # FlashAttention takes one head_dim for all
        query, key = (pad(each, (0, max(0, -missing))) for each in (query, key))
        value = pad(value, (0, max(0, missing)))
    output: torch.Tensor = _BlockAttention.apply(query, key, value, sinks, plan.blocks, scaling, softcap)  # type: ignore[no-untyped-call]
    return output[..., :width]


class _BlockAttention(torch.autograd.Function):
    """Forward and backward of ``block_attention`` without autocast."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        sinks: torch.Tensor | None,
        blocks: Sequence[QueryBlock],
        scaling: float,
        softcap: float | None,
    ) -> torch.Tensor:
        ctx.options = blocks, scaling, softcap
        _, heads, length, head_dim = query.shape
        output = query.new_empty((1, length, heads, head_dim))
        log_sums = query.new_empty((1, heads, length), dtype=_sum_dtype(query))
        for block in blocks:
            q = query[:, :, block.rows]
            merged, log_sum = _attend(q, key, value, block.keys[0], scaling, softcap)
            for keys in block.keys[1:]:
                more, more_log_sum = _attend(q, key, value, keys, scaling, softcap)
                weight = (more_log_sum - log_sum).sigmoid_()[..., None]
                merged = torch.lerp(merged.to(weight.dtype), more.to(weight.dtype), weight)
                log_sum = torch.logaddexp(log_sum, more_log_sum)
            if sinks is not None:
                with_sink = torch.logaddexp(log_sum, sinks.detach().to(log_sum.dtype)[None, :, None])
                merged = merged * (log_sum - with_sink).exp_()[..., None]
                log_sum = with_sink
            output[:, block.rows] = merged.transpose(1, 2)
            log_sums[:, :, block.rows] = log_sum
        ctx.save_for_backward(query, key, value, sinks, output, log_sums)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        query, key, value, sinks, output, log_sums = ctx.saved_tensors
        blocks, scaling, softcap = ctx.options
        gradient, output = gradient.transpose(1, 2), output.transpose(1, 2)
        of_query, of_key, of_value = torch.empty_like(query), _zeros(key), _zeros(value)
        for block in blocks:
            rows = slice(None), slice(None), block.rows
            for number, keys in enumerate(block.keys):
                q, k, v = _attend_backward(
                    gradient[rows], query[rows], key, value, output[rows], log_sums[rows], keys, scaling, softcap
                )
                of_query[rows] = q if number == 0 else of_query[rows] + q
                for total, each in ((of_key, k), (of_value, v)):
                    parts = torch.split(each, [part.stop - part.start for part in keys.rows], dim=2)
                    for part, found in zip(keys.rows, parts, strict=True):
                        total[:, :, part] += found
        of_sinks = None
        if sinks is not None:  # of a column whose value is zero
            weights = (sinks.to(log_sums.dtype)[None, :, None] - log_sums).exp_()
            of_sinks = -(weights * (gradient * output).sum(-1, dtype=log_sums.dtype)).sum((0, 2)).to(sinks.dtype)
        return of_query, of_key.to(key.dtype), of_value.to(value.dtype), of_sinks, None, None, None


def _sum_dtype(tensor: torch.Tensor) -> torch.dtype:
    return torch.float32 if tensor.dtype.itemsize < 4 else tensor.dtype


def _zeros(tensor: torch.Tensor) -> torch.Tensor:
    """Zeros to sum the gradient of ``tensor`` in."""
    return torch.zeros_like(tensor, dtype=_sum_dtype(tensor))


def _select(tensor: torch.Tensor, rows: Sequence[slice]) -> torch.Tensor:
    parts = [tensor[:, :, each] for each in rows]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _uses_flash(query: torch.Tensor, softcap: float | None) -> bool:
    return softcap is None and query.device.type == "cpu"


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, block: KeyBlock, scaling: float, softcap: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (1, heads, queries, head_dim) of one block, and the log-sum-exp of its scores, (1, heads, queries)."""
    k, v = (_select(each, block.rows) for each in (key, value))
    mask = None if block.mask is None else block.mask(query.dtype)
    if mask is None and softcap is None and onednn_attention.is_faster(query, k.shape[2]):
        return onednn_attention.attend(query, k, v, block.causal, scaling)
    if _uses_flash(query, softcap):
        found: tuple[torch.Tensor, torch.Tensor] = flash(query, k, v, 0.0, block.causal, attn_mask=mask, scale=scaling)
        return found
    outputs, log_sums = [], []
    for rows in _score_chunks(query, k):
        scores = _scores(query, k, rows, block.causal, mask, scaling, softcap)[0]
        log_sums.append(scores.logsumexp(-1))
        weights = exp_(scores.sub_(log_sums[-1][..., None])).to(v.dtype)
        outputs.append(_ungroup(weights @ v[:, :, None]))
    return torch.cat(outputs, dim=2), torch.cat([_ungroup(each[..., None]) for each in log_sums], dim=2)[..., 0]


def _attend_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    log_sum: torch.Tensor,
    block: KeyBlock,
    scaling: float,
    softcap: float | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the queries, keys and values of one block; ``output`` and ``log_sum`` are those of all blocks."""
    k, v = (_select(each, block.rows) for each in (key, value))
    mask = None if block.mask is None else block.mask(query.dtype)
    if mask is None and softcap is None and onednn_attention.is_faster(query, k.shape[2]):
        return onednn_attention.attend_backward(gradient, query, k, v, output, log_sum, block.causal, scaling)
    if _uses_flash(query, softcap):
        found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = flash_backward(
            gradient, query, k, v, output, log_sum, 0.0, block.causal, attn_mask=mask, scale=scaling
        )
        return found
    of_query, of_key, of_value = torch.empty_like(query), _zeros(k), _zeros(v)
    for rows in _score_chunks(query, k):
        scores, tanh = _scores(query, k, rows, block.causal, mask, scaling, softcap)
        g, out, q = (_group(each[:, :, rows], k) for each in (gradient, output, query))
        weights = exp_(scores - _group(log_sum[:, :, rows, None], k))
        of_value += (weights.to(g.dtype).transpose(-1, -2) @ g).sum(2)
        # softmax's gradient, FlashAttention's equation: weights * (of_weights - sum(gradient * output))
        of_scores = (g @ v[:, :, None].transpose(-1, -2)).to(weights.dtype)
        of_scores.sub_((g * out).sum(-1, keepdim=True, dtype=weights.dtype)).mul_(weights)
        if tanh is not None:
            of_scores.mul_(1 - tanh.square_())
        of_scores = (of_scores * scaling).to(q.dtype)
        of_query[:, :, rows] = _ungroup(of_scores @ k[:, :, None])
        of_key += (of_scores.transpose(-1, -2) @ q).sum(2)
    return of_query, of_key, of_value


def _score_chunks(query: torch.Tensor, key: torch.Tensor) -> list[slice]:
    """Slices of the queries with at most MAX_STORED_SCORES scores."""
    size, length = max(1, MAX_STORED_SCORES // (query.shape[1] * key.shape[2])), query.shape[2]
    return [slice(at, min(length, at + size)) for at in range(0, length, size)]


def _scores(
    query: torch.Tensor,
    key: torch.Tensor,
    rows: slice,
    causal: bool,
    mask: torch.Tensor | None,
    scaling: float,
    softcap: float | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Masked scores (1, kv_heads, group, queries, keys), at least in float32, and with a softcap their tanh before the mask."""
    scores = _group(query[:, :, rows], key) @ key[:, :, None].transpose(-1, -2)
    scores = scores.to(_sum_dtype(scores)) * scaling
    tanh = None
    if softcap is not None:
        tanh = torch.tanh(scores / softcap)
        scores = tanh * softcap
    if causal:
        hidden = torch.full(scores.shape[-2:], float("-inf"), dtype=scores.dtype, device=scores.device)
        scores += hidden.triu_(rows.start + 1)
    return scores if mask is None else scores + mask[rows], tanh


def _group(tensor: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """(1, heads, ...) to (1, kv_heads, heads of each, ...)."""
    return tensor.reshape(1, key.shape[1], tensor.shape[1] // key.shape[1], *tensor.shape[2:])


def _ungroup(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten(1, 2)
