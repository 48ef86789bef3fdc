"""Attention in a packed row: each sequence attends to its own past, by position, and to nothing else.

It is registered as an attention implementation of transformers, so every architecture that uses transformers' mask and
attention interfaces works, with its window, softcap, grouped heads and scaling. The mask function that a model passes
(causal, sliding window, chunked) is applied to position ids, not to row indices.

On CUDA a row goes through ``packed_attention_cuda``. Elsewhere each pair takes two calls of torch's
scaled_dot_product_attention: shared prefix and chosen in one causal call; then the queries of rejected on the keys of the
shared prefix and of rejected. Where all pairs begin with the same tokens (``MicroBatch.common``; scoring alone), these are
part of each pair's prefix, and their own outputs are taken from the call of the first pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import causal_mask_function

from orpo_cli.training.engine import packed_attention_cuda
from orpo_cli.training.engine.packed_attention_cuda import CudaMask
from orpo_cli.training.engine.packing import MicroBatch, PairSpan
from orpo_cli.training.engine.recompute import recomputable

NAME = "orpo_shared_prefix"
_current: ContextVar[MicroBatch] = ContextVar("micro-batch in its forward pass")


class UnsupportedAttention(Exception):
    """The model's attention does something that cannot be computed exactly here; the message names it."""


class SegmentMask:
    """Mask of one attention call: ``allowed`` (queries, keys) bool, or None where plain causal attention is the same."""

    def __init__(self, allowed: torch.Tensor | None) -> None:
        self.allowed = allowed
        self._additive: dict[torch.dtype, torch.Tensor] = {}

    def additive(self, dtype: torch.dtype) -> torch.Tensor | None:
        """The mask to add to the scores (0 or -inf), (queries, keys); built once for all layers."""
        if self.allowed is None:
            return None
        if dtype not in self._additive:
            zero = torch.zeros((), dtype=dtype, device=self.allowed.device)
            self._additive[dtype] = torch.where(self.allowed, zero, float("-inf"))
        return self._additive[dtype]


class PackedMask:
    """``attention_mask`` of the layers in a forward pass of a micro-batch: for each pair the masks of its two calls."""

    def __init__(self, batch: MicroBatch, allowed: Callable[..., torch.Tensor]) -> None:
        self.spans, self.common = batch.spans, batch.common
        # of the row's segments: what all pairs begin with; for each pair shared prefix with chosen, then rejected
        lengths = [(span.own_shared + span.chosen, span.rejected) for span in batch.spans]
        self.segment_lengths = [self.common, *chain.from_iterable(lengths)]
        self.segments = [self._segment_masks(span, batch.input_ids.device, allowed) for span in batch.spans]

    @staticmethod
    def _segment_masks(
        span: PairSpan, device: torch.device, allowed: Callable[..., torch.Tensor]
    ) -> tuple[SegmentMask, SegmentMask]:
        chosen = torch.arange(span.shared + span.chosen, device=device)
        rejected = torch.arange(span.shared, span.shared + span.rejected, device=device)
        chosen_mask = allowed(chosen, chosen)
        is_causal = torch.equal(chosen_mask, torch.ones_like(chosen_mask).tril_())
        keys = torch.cat((chosen[: span.shared], rejected))
        return SegmentMask(None if is_causal else chosen_mask), SegmentMask(allowed(rejected, keys))


@contextmanager
def use_packed_attention(configs: Sequence[Any], batch: MicroBatch) -> Iterator[None]:
    """Context of forward and backward (where checkpointed layers run again) of a model with these ``attention_configs``."""
    before = [config._attn_implementation for config in configs]
    token = _current.set(batch)
    try:
        for config in configs:
            config._attn_implementation = NAME
        yield
    finally:
        _current.reset(token)
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


def attention_configs(model: torch.nn.Module) -> list[Any]:
    """The configurations in which a model and its submodels look up their attention implementation."""
    found = {id(part.config): part.config for part in model.modules() if isinstance(part, PreTrainedModel)}
    return list(found.values())


def _create_mask(
    *,
    mask_function: Callable[..., torch.Tensor] = causal_mask_function,
    use_vmap: bool = False,
    local_size: int | None = None,
    **_: Any,
) -> Any:
    """transformers' AttentionMaskInterface: called once a forward pass and kind of attention, with the model's mask function."""
    if use_vmap:
        raise UnsupportedAttention("its attention mask needs vmap (a mask function of its own)")
    batch = _current.get()
    device = batch.input_ids.device
    zero = torch.zeros((), dtype=torch.int64, device=device)

    def allowed(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        mask = mask_function(zero, zero, queries[:, None], keys[None, :])
        return mask.expand(len(queries), len(keys))

    if device.type == "cuda":
        return CudaMask(batch, mask_function, local_size)
    return PackedMask(batch, allowed)


def _attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' AttentionInterface: query (1, heads, T, head_dim), key and value (1, kv_heads, T, head_dim) of a packed
    row give (1, T, heads, head_dim).
    """
    if dropout:
        raise UnsupportedAttention("attention dropout is active")
    if position_bias is not None:
        raise UnsupportedAttention("its attention has a position bias")
    if is_causal is False or attention_mask is None:
        raise UnsupportedAttention("its attention is not causal")
    if isinstance(attention_mask, CudaMask):
        options = {"scaling": scaling, "softcap": softcap, "s_aux": s_aux, **kwargs}
        return packed_attention_cuda.attention_forward(module, query, key, value, attention_mask, options), None

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: SegmentMask) -> torch.Tensor:
        if not q.shape[2]:
            return q.new_empty((*q.shape[:3], v.shape[3]))
        if softcap is not None or s_aux is not None:
            return _eager_attention(q, k, v, mask, scaling, softcap, s_aux)
        additive, gqa = mask.additive(q.dtype), q.shape[1] != k.shape[1]
        return scaled_dot_product_attention(
            q, k, v, attn_mask=additive, is_causal=additive is None, scale=scaling, enable_gqa=gqa
        )

    common = attention_mask.common
    first, *segments = zip(
        *(torch.split(each, attention_mask.segment_lengths, dim=2) for each in (query, key, value)), strict=True
    )
    outputs: list[torch.Tensor] = []
    for pair, (span, masks) in enumerate(zip(attention_mask.spans, attention_mask.segments, strict=True)):
        (q1, k1, v1), (q2, k2, v2) = segments[2 * pair : 2 * pair + 2]
        if common:
            q1, k1, v1 = (torch.cat(each, dim=2) for each in zip(first, (q1, k1, v1), strict=True))
        rejected_keys, rejected_values = (
            recomputable(_join_shared(span), chosen, rejected) for chosen, rejected in ((k1, k2), (v1, v2))
        )
        chosen_output = attend(q1, k1, v1, masks[0])
        if common and pair:
            chosen_output = chosen_output[:, :, common:]
        outputs += [chosen_output, attend(q2, rejected_keys, rejected_values, masks[1])]
    return recomputable(_concat_segments, *outputs), None


def _join_shared(span: PairSpan) -> Callable[..., torch.Tensor]:
    """Keys or values of the shared prefix and of rejected."""
    return lambda chosen, rejected: torch.cat((chosen[:, :, : span.shared], rejected), dim=2)


def _concat_segments(*segments: torch.Tensor) -> torch.Tensor:
    return torch.cat(segments, dim=2).transpose(1, 2).contiguous()


def _eager_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: SegmentMask,
    scaling: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention with softcapped scores (Gemma 2) or sinks (gpt-oss: a learned score a head in the softmax, without a value)."""
    heads, kv_heads = query.shape[1], key.shape[1]
    grouped = query.reshape(1, kv_heads, heads // kv_heads, *query.shape[2:])  # (1, kv_heads, group, queries, head_dim)
    scores = grouped @ key[:, :, None].transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    additive = mask.additive(scores.dtype)
    if additive is None:
        additive = torch.full(scores.shape[-2:], float("-inf"), dtype=scores.dtype, device=scores.device).triu_(1)
    scores = (scores + additive).float() if scores.dtype.itemsize < 4 else scores + additive
    if sinks is not None:
        sink = sinks.view(1, kv_heads, -1, 1, 1).expand(*scores.shape[:-1], 1).to(scores.dtype)
        weights = torch.cat((scores, sink), dim=-1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    return (weights.to(value.dtype) @ value[:, :, None]).flatten(1, 2)


AttentionInterface.register(NAME, _attention_forward)
AttentionMaskInterface.register(NAME, _create_mask)
