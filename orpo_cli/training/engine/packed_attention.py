"""Attention in a packed row: each sequence attends to its own past, by position, and to nothing else.

It is registered as an attention implementation of transformers, so every architecture that uses transformers' mask and
attention interfaces works, with its window, softcap, grouped heads and scaling. The mask function that a model passes
(causal, sliding window, chunked) is applied to position ids, not to row indices.

On CUDA a row goes through ``packed_attention_cuda``. Elsewhere each branch of the row (see ``prefix_tree``) takes one call of
torch's scaled_dot_product_attention: its queries on the keys of its path. Where a path has fewer ancestors than own tokens, the
queries of the ancestors are computed again and not used: a causal call has half the products and no mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import causal_mask_function

from orpo_cli.training.engine import packed_attention_cuda
from orpo_cli.training.engine.packed_attention_cuda import CudaMask
from orpo_cli.training.engine.packing import MicroBatch
from orpo_cli.training.engine.prefix_tree import Branch
from orpo_cli.training.engine.recompute import recomputable

NAME = "orpo_shared_prefix"
_current: ContextVar[MicroBatch] = ContextVar("micro-batch in its forward pass")


class UnsupportedAttention(Exception):
    """The model's attention does something that cannot be computed exactly here; the message names it."""


class PackedMask:
    """``attention_mask`` of the layers in a forward pass of a micro-batch.

    ``allowed`` (longest, longest) bool says by position which key a query sees; None where this is plain causal attention.
    """

    def __init__(self, batch: MicroBatch, allowed: torch.Tensor) -> None:
        self.branches = batch.branches
        is_causal = torch.equal(allowed, torch.ones_like(allowed).tril_())
        self.allowed = None if is_causal else allowed
        self.device = allowed.device
        self.longest = len(allowed)
        self._additive: dict[torch.dtype, torch.Tensor] = {}

    def repeated_queries(self, branch: Branch) -> int:
        """Queries of a branch's ancestors that its call computes again, all or none."""
        return branch.depth if self.allowed is None and branch.depth < branch.length else 0

    def additive(self, dtype: torch.dtype, queries: int, keys: int) -> torch.Tensor:
        """The mask to add to the scores (0 or -inf) of the last ``queries`` of ``keys`` tokens; built once for all layers."""
        if dtype not in self._additive:
            allowed = self.allowed
            if allowed is None:
                allowed = torch.ones(self.longest, self.longest, dtype=torch.bool, device=self.device).tril_()
            zero = torch.zeros((), dtype=dtype, device=self.device)
            self._additive[dtype] = torch.where(allowed, zero, float("-inf"))
        return self._additive[dtype][keys - queries : keys, :keys]


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

    if device.type == "cuda":
        return CudaMask(batch, mask_function, local_size)
    positions = torch.arange(batch.longest, device=device)
    allowed = mask_function(zero, zero, positions[:, None], positions[None])
    return PackedMask(batch, allowed.expand(len(positions), len(positions)))


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

    branches = attention_mask.branches
    queries, keys, values = (
        torch.split(each, [branch.length for branch in branches], dim=2) for each in (query, key, value)
    )
    outputs: list[torch.Tensor] = []
    for number, branch in enumerate(branches):
        repeated = attention_mask.repeated_queries(branch)
        q, k, v = queries[number], _path(keys, branch, number), _path(values, branch, number)
        if repeated:
            q = _path(queries, branch, number)
        is_causal = attention_mask.allowed is None and q.shape[2] == k.shape[2]
        mask = None if is_causal else attention_mask.additive(q.dtype, q.shape[2], k.shape[2])
        if softcap is not None or s_aux is not None:
            output = _eager_attention(q, k, v, mask, scaling, softcap, s_aux)
        else:
            gqa = q.shape[1] != k.shape[1]
            output = scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=is_causal, scale=scaling, enable_gqa=gqa
            )
        outputs.append(output[:, :, repeated:])
    return recomputable(_concat_segments, *outputs), None


def _path(segments: Sequence[torch.Tensor], branch: Branch, number: int) -> torch.Tensor:
    """Queries, keys or values of the path of ``branch``; ``segments`` are those of all branches, of which it is ``number``."""
    if not branch.ancestors:
        return segments[number]
    counts = [*(count for _, count in branch.ancestors), branch.length]

    def join(*segments: torch.Tensor) -> torch.Tensor:
        return torch.cat([each[:, :, :count] for each, count in zip(segments, counts, strict=True)], dim=2)

    return recomputable(join, *(segments[other] for other, _ in branch.ancestors), segments[number])


def _concat_segments(*segments: torch.Tensor) -> torch.Tensor:
    return torch.cat(segments, dim=2).transpose(1, 2).contiguous()


def _eager_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    additive: torch.Tensor | None,
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
