"""Attention in a packed row on CUDA: variable-length FlashAttention, or FlexAttention where it does not apply.

Each branch of the row (see ``prefix_tree``) is one query sequence; its keys are those of its path. Both are causal when aligned
at their ends (FlashAttention's convention for fewer queries than keys), so one variable-length call computes the row, windows
included, on keys gathered per branch. Float32, softcapped scores, sinks and other masks go through FlexAttention with a block
mask over the row.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import pad

from orpo_cli.training.engine.packing import MicroBatch
from orpo_cli.training.engine.prefix_tree import Branch, branch_row_indices

BLOCK = 128  # FlexAttention's block of queries and of keys
MASK_ROWS = 1024  # rows of the mask computed at once, a multiple of BLOCK
MAX_HEAD_DIM = 256  # of FlashAttention


class VarlenInputs(NamedTuple):
    """Arguments of variable-length attention: cumulative lengths (sequences + 1,) int32 of queries and keys, the row indices
    of the keys of all sequences, and the longest lengths.
    """

    cu_seqlens_q: torch.Tensor
    cu_seqlens_k: torch.Tensor
    key_indices: torch.Tensor
    max_seqlen_q: int
    max_seqlen_k: int


class CudaMask:
    """``attention_mask`` of the layers in a forward pass of a micro-batch on CUDA.

    ``mask_function(batch, head, query, key)`` is the model's, by position; ``local_size`` the length of its window or chunk.
    """

    def __init__(self, batch: MicroBatch, mask_function: Callable[..., torch.Tensor], local_size: int | None) -> None:
        self.batch = batch
        self.mask_function = mask_function
        self.local_size = local_size

    @cached_property
    def window(self) -> int | None:
        """Keys that a query sees, itself included; 0 for all keys before it; None where the mask is neither causal nor a window.

        Synchronizes with the device.
        """
        device = self.batch.input_ids.device
        zero, positions = (
            torch.zeros((), dtype=torch.int64, device=device),
            torch.arange(self.batch.longest, device=device),
        )
        same = torch.ones((), dtype=torch.bool, device=device)
        for queries in torch.split(positions, MASK_ROWS):
            q, k = queries[:, None], positions[None]
            expected = k <= q
            if self.local_size:
                expected &= k > q - self.local_size
            same &= (self.mask_function(zero, zero, q, k) == expected).all()
        return (self.local_size or 0) if same else None

    @cached_property
    def varlen_inputs(self) -> VarlenInputs:
        """The row's branches for variable-length attention."""
        branches, device = self.batch.branches, self.batch.input_ids.device
        queries = [branch.length for branch in branches]
        keys = [branch.depth + branch.length for branch in branches]
        cu_seqlens_q, cu_seqlens_k = (
            pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(torch.int32).to(device) for lengths in (queries, keys)
        )
        key_indices = torch.from_numpy(np.concatenate(branch_row_indices(branches))).to(device)
        return VarlenInputs(cu_seqlens_q, cu_seqlens_k, key_indices, max(queries), max(keys))

    @cached_property
    def block_mask(self) -> Any:
        """FlexAttention's BlockMask: a key of the query's own path, allowed by position."""
        from torch.nn.attention.flex_attention import BlockMask

        batch, mask_function = self.batch, self.mask_function
        device, tokens = batch.input_ids.device, batch.num_tokens
        last, position = last_descendants(batch.branches).to(device), batch.position_ids[0]

        def allowed(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            on_path = (k <= q) & (q <= last[k])
            return on_path & mask_function(b, h, position[q], position[k])

        blocks = -(-tokens // BLOCK)
        zero, indices = (torch.zeros((), dtype=torch.int64, device=device), torch.arange(tokens, device=device))
        counts = []
        for queries in torch.split(indices, MASK_ROWS):
            mask = allowed(zero, zero, queries[:, None], indices[None])
            mask = pad(mask, (0, blocks * BLOCK - tokens, 0, -len(queries) % BLOCK))
            counts.append(mask.view(-1, BLOCK, blocks, BLOCK).sum((1, 3)))
        allowed_in_block = torch.cat(counts)
        full = allowed_in_block == BLOCK * BLOCK
        partial_ = (allowed_in_block > 0) & ~full
        return BlockMask.from_kv_blocks(
            *_kv_blocks(partial_), *_kv_blocks(full), BLOCK_SIZE=BLOCK, mask_mod=allowed, seq_lengths=(tokens, tokens)
        )


def last_descendants(branches: Sequence[Branch]) -> torch.Tensor:
    """For each token of the row the last row index whose path it is on, (T,): the row is in depth-first order."""
    last = np.empty(sum(branch.length for branch in branches), np.int64)
    for path in branch_row_indices(branches):
        last[path] = path[-1]
    return torch.from_numpy(last)


def _kv_blocks(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each block of queries the number of key blocks, (1, 1, queries), and their indices first, (1, 1, queries, keys)."""
    order = blocks.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[None, None], order.to(torch.int32)[None, None]


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: CudaMask,
    options: dict[str, Any],
) -> torch.Tensor:
    """Attention of a layer: query (1, heads, T, head_dim), key and value (1, kv_heads, T, head_dim) give
    (1, T, heads, head_dim). ``options`` are FlexAttention's.
    """
    # autocast casts the inputs of scaled_dot_product_attention, not of these functions
    if torch.is_autocast_enabled("cuda"):
        query, key, value = (each.to(torch.get_autocast_dtype("cuda")) for each in (query, key, value))
    plain = options["softcap"] is None and options["s_aux"] is None
    if plain and _flash_supports(query, value) and mask.window is not None:
        return flash_attention(query, key, value, mask.varlen_inputs, mask.window, options["scaling"])
    from transformers.integrations.flex_attention import flex_attention_forward

    output: torch.Tensor = flex_attention_forward(module, query, key, value, mask.block_mask, **options)[0]
    return output


def flash_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    inputs: VarlenInputs,
    window: int,
    scaling: float | None,
) -> torch.Tensor:
    """Variable-length FlashAttention of a packed row; shapes as for ``attention_forward``, ``window`` as ``CudaMask.window``."""
    q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))
    k, v = (each.index_select(0, inputs.key_indices) for each in (k, v))
    output: torch.Tensor = _varlen_attn()(
        q, k, v, inputs.cu_seqlens_q, inputs.cu_seqlens_k, inputs.max_seqlen_q, inputs.max_seqlen_k,
        scale=scaling, window_size=(window - 1, 0) if window else (-1, 0),
    )  # fmt: skip
    return output[None]


@cache
def _varlen_attn() -> Callable[..., Any]:
    """torch's function; since 2.13 grouped heads need ``enable_gqa``, which earlier versions do not have."""
    from torch.nn.attention.varlen import varlen_attn

    has_gqa_option = "enable_gqa" in inspect.signature(varlen_attn).parameters
    return partial(varlen_attn, enable_gqa=True) if has_gqa_option else varlen_attn


def _flash_supports(query: torch.Tensor, value: torch.Tensor) -> bool:
    half = query.dtype in (torch.bfloat16, torch.float16)
    head_dim = query.shape[-1]
    supported = head_dim == value.shape[-1] and head_dim <= MAX_HEAD_DIM and head_dim % 8 == 0
    return half and supported and _flash_available(query.device)


@cache
def _flash_available(device: torch.device) -> bool:
    """Whether torch was built with FlashAttention, and the GPU is Ampere or later."""
    built = torch.backends.cuda.is_flash_attention_available()
    return built and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)
