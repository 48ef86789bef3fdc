"""Attention inside a packed row: each sequence sees its own past, by position, and nothing else.

It is registered with transformers as an attention implementation of its own, so every architecture that asks transformers for
its mask and its attention function works, with the window, soft-cap, grouped heads and scaling that it asks for. The mask
function that a model asks for (causal, sliding, chunked) is applied to positions, not to places in the row.

On CUDA a row goes through ``attention_on_gpu``. Elsewhere each pair goes through torch's scaled_dot_product_attention twice:
shared part and chosen in one causal call, then rejected's queries on the shared part and on rejected's keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import causal_mask_function

from orpo_cli.training.engine import packed_attention_cuda
from orpo_cli.training.engine.packed_attention_cuda import GpuMask
from orpo_cli.training.engine.packing import MicroBatch, Span
from orpo_cli.training.engine.recompute import cheap

NAME = "orpo_shared_prefix"
_current: ContextVar[MicroBatch] = ContextVar("micro-batch in its forward pass")


class Unsupported(Exception):
    """The model does something in its attention that cannot be done here exactly; says what."""


class Part:
    """Some queries of a pair and the keys they see. ``mask`` is None where plain causal attention does it."""

    def __init__(self, visible: torch.Tensor | None) -> None:
        self.visible = visible  # (queries, keys), bool
        self._additive: dict[torch.dtype, torch.Tensor] = {}

    def mask(self, dtype: torch.dtype) -> torch.Tensor | None:
        """The mask to add to the scores, (queries, keys); made once for all layers."""
        if self.visible is None:
            return None
        if dtype not in self._additive:
            zero = torch.zeros((), dtype=dtype, device=self.visible.device)
            self._additive[dtype] = torch.where(self.visible, zero, float("-inf"))
        return self._additive[dtype]


class RowMask:
    """What a model passes to its layers as ``attention_mask`` while a micro-batch goes through: (chosen, rejected) a pair."""

    def __init__(self, batch: MicroBatch, visible: Callable[..., torch.Tensor]) -> None:
        self.spans = batch.spans
        self.parts = [self._parts(span, batch.input_ids.device, visible) for span in batch.spans]

    @cached_property
    def sizes(self) -> list[int]:
        """Lengths of the parts of the row: shared with chosen, rejected, of each pair."""
        return [size for span in self.spans for size in (span.shared + span.chosen, span.rejected)]

    @staticmethod
    def _parts(span: Span, device: torch.device, visible: Callable[..., torch.Tensor]) -> tuple[Part, Part]:
        first = torch.arange(span.shared + span.chosen, device=device)
        second = torch.arange(span.shared, span.shared + span.rejected, device=device)
        whole = visible(first, first)
        causal = None if torch.equal(whole, torch.ones_like(whole).tril_()) else whole
        keys = torch.cat((first[: span.shared], second))
        return Part(causal), Part(visible(second, keys))


@contextmanager
def shared_prefixes(configs: Sequence[Any], batch: MicroBatch) -> Iterator[None]:
    """Let the model with these configurations (see ``configurations``) run on the row of ``batch``.

    Keep it open for the backward pass as well: layers that are checkpointed run again there.
    """
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


def configurations(model: torch.nn.Module) -> list[Any]:
    """The configurations that a model and its parts look their attention up in."""
    found = {id(part.config): part.config for part in model.modules() if isinstance(part, PreTrainedModel)}
    return list(found.values())


def _row_mask(
    *,
    mask_function: Callable[..., torch.Tensor] = causal_mask_function,
    use_vmap: bool = False,
    local_size: int | None = None,
    **_: Any,
) -> Any:
    """transformers asks for a mask, once a forward pass and kind of attention; ``mask_function`` is what the model wants."""
    if use_vmap:
        raise Unsupported("its attention mask is made of functions of its own")
    batch = _current.get()
    device = batch.input_ids.device
    zero = torch.zeros((), dtype=torch.int64, device=device)

    def visible(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        seen = mask_function(zero, zero, queries[:, None], keys[None, :])
        return seen.expand(len(queries), len(keys))

    if device.type == "cuda":
        return GpuMask(batch, mask_function, local_size)
    return RowMask(batch, visible)


def _attention(
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
    """Attention of a layer on a packed row: query (1, heads, tokens, size), key and value (1, key heads, tokens, size).

    Gives (1, tokens, heads, size), as transformers' own functions do.
    """
    if dropout:
        raise Unsupported("attention dropout is active")
    if position_bias is not None:
        raise Unsupported("its attention has a position bias")
    if is_causal is False or attention_mask is None:
        raise Unsupported("its attention is not causal")
    if isinstance(attention_mask, GpuMask):
        options = {"scaling": scaling, "softcap": softcap, "s_aux": s_aux, **kwargs}
        return packed_attention_cuda.attention(module, query, key, value, attention_mask, **options), None
    plain = softcap is None and s_aux is None
    parts = [torch.split(each, attention_mask.sizes, dim=2) for each in (query, key, value)]
    outputs: list[torch.Tensor] = []
    for number, (span, masks) in enumerate(zip(attention_mask.spans, attention_mask.parts, strict=True)):
        (q1, q2), (k1, k2), (v1, v2) = (each[2 * number : 2 * number + 2] for each in parts)
        keys, values = (cheap(_seen_by_rejected(span), each, own) for each, own in ((k1, k2), (v1, v2)))
        for q, k, v, part in ((q1, k1, v1, masks[0]), (q2, keys, values, masks[1])):
            if not q.shape[2]:
                outputs.append(q.new_empty((*q.shape[:3], v.shape[3])))
            elif plain:
                mask = part.mask(q.dtype)
                outputs.append(
                    scaled_dot_product_attention(
                        q,
                        k,
                        v,
                        attn_mask=mask,
                        is_causal=mask is None,
                        scale=scaling,
                        enable_gqa=q.shape[1] != k.shape[1],
                    )
                )
            else:
                outputs.append(_explicit(q, k, v, part, scaling, softcap, s_aux))
    return cheap(_in_a_row, *outputs), None


def _seen_by_rejected(span: Span) -> Callable[..., torch.Tensor]:
    return lambda first, own: torch.cat((first[:, :, : span.shared], own), dim=2)


def _in_a_row(*parts: torch.Tensor) -> torch.Tensor:
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous()


def _explicit(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    part: Part,
    scaling: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention with soft-capped scores or sinks (a learned score a head that takes weight and gives nothing)."""
    heads, key_heads = query.shape[1], key.shape[1]
    grouped = query.reshape(1, key_heads, heads // key_heads, *query.shape[2:])  # (1, key heads, group, queries, size)
    scores = grouped @ key[:, :, None].transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    mask = part.mask(scores.dtype)
    if mask is None:
        mask = torch.full(scores.shape[-2:], float("-inf"), dtype=scores.dtype, device=scores.device).triu_(1)
    scores = (scores + mask).float() if scores.dtype.itemsize < 4 else scores + mask
    if sinks is not None:
        sink = sinks.view(1, key_heads, -1, 1, 1).expand(*scores.shape[:-1], 1).to(scores.dtype)
        weights = torch.cat((scores, sink), dim=-1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    return (weights.to(value.dtype) @ value[:, :, None]).flatten(1, 2)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _row_mask)
