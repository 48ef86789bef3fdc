"""Attention in a packed row: each sequence attends to its own past, by position, and to nothing else.

It is registered as an attention implementation of transformers, so every architecture that uses transformers' mask and
attention interfaces works, with its window, softcap, grouped heads and scaling. The mask function that a model passes
(causal, sliding window, chunked) is applied to position ids, not to row indices.

On CUDA a row goes through ``packed_attention_cuda``, elsewhere through ``block_attention``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from itertools import accumulate
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import causal_mask_function

from orpo_cli.training.engine import packed_attention_cuda
from orpo_cli.training.engine.attention_blocks import BlockPlan, Segment, attention_window
from orpo_cli.training.engine.block_attention import block_attention
from orpo_cli.training.engine.packed_attention_cuda import CudaMask
from orpo_cli.training.engine.packing import MicroBatch
from orpo_cli.training.engine.prefix_tree import Branch

NAME = "orpo_shared_prefix"
_current: ContextVar[MicroBatch] = ContextVar("micro-batch in its forward pass")


class UnsupportedAttention(Exception):
    """The model's attention does something that cannot be computed exactly here; the message names it."""


def row_segments(branches: Sequence[Branch]) -> list[Segment]:
    """The branches of a row as slices of it."""
    starts = list(accumulate((branch.length for branch in branches), initial=0))
    return [
        Segment(
            slice(start, start + branch.length),
            tuple(slice(starts[other], starts[other] + count) for other, count in branch.ancestors),
        )
        for start, branch in zip(starts, branches, strict=False)
    ]


@contextmanager
def use_packed_attention(configs: Sequence[Any], batch: MicroBatch | None = None) -> Iterator[None]:
    """Context of forward and backward (where checkpointed layers run again) of a model with these ``attention_configs``.

    ``batch``: the packed row; None where it is that of ``attend_within``.
    """
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = NAME
        with nullcontext() if batch is None else attend_within(batch):
            yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


@contextmanager
def attend_within(batch: MicroBatch) -> Iterator[None]:
    """Context in which this thread computes the attention of ``batch``."""
    token = _current.set(batch)
    try:
        yield
    finally:
        _current.reset(token)


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

    def allowed(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        mask = mask_function(zero, zero, queries[:, None], keys[None])
        return mask.expand(len(queries), len(keys))

    window: int | None = 0
    if mask_function is not causal_mask_function:
        window = attention_window(allowed, local_size, batch.longest, device)
    return BlockPlan(row_segments(batch.branches), allowed, window, device)


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

    return block_attention(query, key, value, attention_mask, scaling=scaling, softcap=softcap, sinks=s_aux), None


AttentionInterface.register(NAME, _attention_forward)
AttentionMaskInterface.register(NAME, _create_mask)
