"""Blocks of a packed row's attention: which keys each slice of queries attends to, and where a call needs a mask.

A segment of the row attends to its ancestors (the segments before it in its sequences) and causally to itself. Only windows,
other masks and short segments take masks, for a bounded number of scores at a time. ``block_attention`` computes the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import chain
from typing import NamedTuple

import torch

# One masked call is faster than two merged calls up to about this many scores a head (Xeon, head_dim 64: 200 queries, 400 keys).
MAX_SCORES_OF_ONE_CALL = 1 << 16
MAX_MASKED_SCORES = 1 << 21  # a head, in one call with a mask that is not kept
MAX_WINDOW_CHUNK = 512  # queries of a call in a window

# Positions of queries and of keys give (queries, keys) bool.
Allowed = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
AdditiveMask = Callable[[torch.dtype], torch.Tensor]  # (queries, keys), 0 or -inf


class Segment(NamedTuple):
    """Consecutive tokens of a row, and the row's slices with the tokens before them in their sequence, in order."""

    rows: slice
    ancestors: tuple[slice, ...] = ()


class KeyBlock(NamedTuple):
    """Keys of one call: slices of the row, and which of them a query sees: by a mask, or its past (``causal``), or all."""

    rows: tuple[slice, ...]
    causal: bool = False
    mask: AdditiveMask | None = None


class QueryBlock(NamedTuple):
    """A slice of the row's queries and the blocks of keys that they attend to."""

    rows: slice
    keys: tuple[KeyBlock, ...]


def attention_window(allowed: Allowed, local_size: int | None, length: int, device: torch.device) -> int | None:
    """Keys that a query sees, itself included; 0 for all keys before it; None where ``allowed`` is neither causal nor a window.

    ``local_size`` is the length of the model's window or chunk, ``length`` that of the longest sequence.
    """
    positions = torch.arange(length, device=device)
    for queries in torch.split(positions, max(1, MAX_MASKED_SCORES // max(1, length))):
        q, k = queries[:, None], positions[None]
        expected = k <= q
        if local_size:
            expected &= k > q - local_size
        if not torch.equal(allowed(queries, positions), expected):
            return None
    return local_size or 0


class BlockPlan:
    """The calls of a row's attention: built once, used in all layers with the same mask."""

    def __init__(self, segments: Sequence[Segment], allowed: Allowed, window: int | None, device: torch.device) -> None:
        self.allowed, self.window, self.device = allowed, window, device
        self._kept_mask = cache(self._mask)
        self.blocks = tuple(chain.from_iterable(map(self._query_blocks, segments)))

    def _query_blocks(self, segment: Segment) -> Iterator[QueryBlock]:
        length = segment.rows.stop - segment.rows.start
        if not length:
            return
        path = (*segment.ancestors, segment.rows)
        depth = sum(each.stop - each.start for each in segment.ancestors)
        in_window = (
            length if self.window == 0 else 0 if self.window is None else min(length, max(0, self.window - depth))
        )
        if in_window:
            yield self._causal_block(path, depth, in_window)
        for first, last, start in self._chunks(depth + in_window, depth + length):
            rows = slice(segment.rows.start + first - depth, segment.rows.start + last - depth)
            if self.window is None:
                mask = partial(self._mask, first, last, start)
            else:  # by distance alone
                mask = partial(self._kept_mask, first - start, last - start, 0)
            yield QueryBlock(rows, (KeyBlock(_part(path, start, last), mask=mask),))

    def _causal_block(self, path: Sequence[slice], depth: int, length: int) -> QueryBlock:
        """Queries that see all of the path before them."""
        rows = slice(path[-1].start, path[-1].start + length)
        if depth and length * (depth + length) <= MAX_SCORES_OF_ONE_CALL:
            mask = partial(self._kept_mask, depth, depth + length, 0)
            return QueryBlock(rows, (KeyBlock(_part(path, 0, depth + length), mask=mask),))
        own = KeyBlock((rows,), causal=True)
        return QueryBlock(rows, (KeyBlock(_part(path, 0, depth)), own) if depth else (own,))

    def _chunks(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """Positions of queries, from and to, and of their first key."""
        while first < last:
            if self.window is None:
                size, start = max(1, MAX_MASKED_SCORES // last), 0
            else:
                size, start = min(MAX_WINDOW_CHUNK, max(64, self.window // 4)), max(0, first + 1 - self.window)
            end = min(last, first + size)
            yield first, end, start
            first = end

    def _mask(self, first: int, last: int, start: int, dtype: torch.dtype) -> torch.Tensor:
        """The mask of queries at the positions from ``first`` on and keys from ``start`` on, both before ``last``."""
        queries, keys = (torch.arange(each, last, device=self.device) for each in (first, start))
        zero = torch.zeros((), dtype=dtype, device=self.device)
        return torch.where(self.allowed(queries, keys), zero, float("-inf"))


def _part(path: Sequence[slice], first: int, last: int) -> tuple[slice, ...]:
    """The row's slices with the positions ``first`` to ``last`` of a path; adjacent ones are joined."""
    found: list[slice] = []
    position = 0
    for each in path:
        start, stop = (min(max(at - position + each.start, each.start), each.stop) for at in (first, last))
        position += each.stop - each.start
        if start == stop:
            continue
        if found and found[-1].stop == start:
            found[-1] = slice(found[-1].start, stop)
        else:
            found.append(slice(start, stop))
    return tuple(found)
