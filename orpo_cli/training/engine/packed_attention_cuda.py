"""Attention inside a packed row on a GPU.

A pair is two sequences of queries: those of the shared part and of chosen see themselves; those of rejected see the shared
part and themselves. Both are causal from their ends, so flash attention for sequences of various lengths computes them, windows
included, on keys that are laid out once more. Where it does not apply (float32, soft-capped scores, sinks, masks of another kind)
FlexAttention takes the row as it lies, with a mask of blocks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, cached_property
from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad

from orpo_cli.training.engine.packing import MicroBatch

BLOCK = 128  # FlexAttention's
ROWS = 1024  # of a mask that are looked at together, a multiple of BLOCK
LARGEST_HEAD = 256  # of flash attention


class Sequences(NamedTuple):
    """Queries and keys of flash attention: where each sequence begins, (sequences + 1,) int32, the places of all keys in the
    row, and the length of the longest.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    places: torch.Tensor
    most_queries: int
    most_keys: int


class GpuMask:
    """What a model passes to its layers as ``attention_mask`` while a micro-batch goes through.

    ``seen(b, h, q, k)`` is what the model asks for, by position; ``local_size`` the length of its window or chunk, if any.
    """

    def __init__(self, batch: MicroBatch, seen: Callable[..., torch.Tensor], local_size: int | None) -> None:
        self.batch = batch
        self.seen = seen
        self.local_size = local_size

    @cached_property
    def window(self) -> int | None:
        """How many keys a query sees, itself and those before it; 0 for all of them, None where the mask is of another kind.

        Waits for the device.
        """
        device = self.batch.input_ids.device
        longest = max(span.shared + max(span.chosen, span.rejected) for span in self.batch.spans)
        zero, positions = (torch.zeros((), dtype=torch.int64, device=device), torch.arange(longest, device=device))
        same = torch.ones((), dtype=torch.bool, device=device)
        for queries in torch.split(positions, ROWS):
            q, k = queries[:, None], positions[None]
            expected = k <= q
            if self.local_size:
                expected &= k > q - self.local_size
            same &= (self.seen(zero, zero, q, k) == expected).all()
        return (self.local_size or 0) if same else None

    @cached_property
    def sequences(self) -> Sequences:
        """The row as flash attention takes it."""
        queries: list[int] = []
        keys: list[int] = []
        places: list[torch.Tensor] = []
        for span in self.batch.spans:
            own = span.shared + span.chosen
            queries.append(own)
            keys.append(own)
            places.append(torch.arange(span.start, span.start + own))
            if span.rejected:
                queries.append(span.rejected)
                keys.append(span.shared + span.rejected)
                places.append(span.places(0, span.shared + span.rejected, rejected=True))
        device = self.batch.input_ids.device
        begins_q, begins_k = (
            pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(torch.int32).to(device) for lengths in (queries, keys)
        )
        return Sequences(begins_q, begins_k, torch.cat(places).to(device), max(queries), max(keys))

    @cached_property
    def blocks(self) -> Any:
        """FlexAttention's mask: same pair, and the key is shared or of the query's own answer, and seen by position."""
        from torch.nn.attention.flex_attention import BlockMask

        batch, seen = self.batch, self.seen
        device, tokens = batch.input_ids.device, batch.input_ids.shape[1]
        pair = torch.cat([torch.full((span.length,), number) for number, span in enumerate(batch.spans)]).to(device)
        answers = [torch.tensor([0, 1, 2]).repeat_interleave(torch.tensor(span[1:])) for span in batch.spans]
        answer, position = torch.cat(answers).to(device), batch.position_ids[0]

        def visible(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            related = (pair[q] == pair[k]) & ((answer[k] == 0) | (answer[k] == answer[q]))
            return related & seen(b, h, position[q], position[k])

        count = -(-tokens // BLOCK)
        zero, places = (torch.zeros((), dtype=torch.int64, device=device), torch.arange(tokens, device=device))
        sums = []
        for queries in torch.split(places, ROWS):
            inside = visible(zero, zero, queries[:, None], places[None])
            inside = pad(inside, (0, count * BLOCK - tokens, 0, -len(queries) % BLOCK))
            sums.append(inside.view(-1, BLOCK, count, BLOCK).sum((1, 3)))
        seen_in_block = torch.cat(sums)
        whole = seen_in_block == BLOCK * BLOCK
        partly = (seen_in_block > 0) & ~whole
        return BlockMask.from_kv_blocks(
            *_listed(partly), *_listed(whole), BLOCK_SIZE=BLOCK, mask_mod=visible, seq_lengths=(tokens, tokens)
        )


def _listed(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many blocks of keys each block of queries has, (1, 1, queries), and which, first, (1, 1, queries, keys)."""
    order = blocks.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[None, None], order.to(torch.int32)[None, None]


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: GpuMask,
    *,
    scaling: float | None,
    softcap: float | None,
    s_aux: torch.Tensor | None,
    **kwargs: Any,
) -> torch.Tensor:
    """Attention of a layer: query (1, heads, tokens, size), key and value (1, key heads, tokens, size); gives
    (1, tokens, heads, size).
    """
    if torch.is_autocast_enabled("cuda"):  # as it does to scaled_dot_product_attention
        query, key, value = (each.to(torch.get_autocast_dtype("cuda")) for each in (query, key, value))
    plain = softcap is None and s_aux is None
    if plain and _flash_takes(query, value) and mask.window is not None:
        return flash(query, key, value, mask.sequences, mask.window, scaling)
    from transformers.integrations.flex_attention import flex_attention_forward

    output: torch.Tensor = flex_attention_forward(
        module, query, key, value, mask.blocks, scaling=scaling, softcap=softcap, s_aux=s_aux, **kwargs
    )[0]
    return output


def flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sequences: Sequences,
    window: int,
    scaling: float | None,
) -> torch.Tensor:
    """Flash attention of a packed row; shapes as for ``attention``, ``window`` as ``GpuMask.window``."""
    q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))
    k, v = (each.index_select(0, sequences.places) for each in (k, v))
    output: torch.Tensor = _varlen()(
        q, k, v, sequences.queries, sequences.keys, sequences.most_queries, sequences.most_keys,
        scale=scaling, window_size=(window - 1, 0) if window else (-1, 0),
    )  # fmt: skip
    return output[None]


@cache
def _varlen() -> Callable[..., Any]:
    """torch's own; grouped heads are asked for since 2.13 and taken as they come before."""
    from functools import partial

    from torch.nn.attention.varlen import varlen_attn

    grouped = "enable_gqa" in inspect.signature(varlen_attn).parameters
    return partial(varlen_attn, enable_gqa=True) if grouped else varlen_attn


def _flash_takes(query: torch.Tensor, value: torch.Tensor) -> bool:
    half = query.dtype in (torch.bfloat16, torch.float16)
    size = query.shape[-1]
    return half and size == value.shape[-1] and size <= LARGEST_HEAD and size % 8 == 0 and _has_flash(query.device)


@cache
def _has_flash(device: torch.device) -> bool:
    """Whether torch was built with it, for a GPU of Ampere's generation or later."""
    built = torch.backends.cuda.is_flash_attention_available()
    return built and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)
