"""Prefix tree of token sequences: tokens with which several sequences begin are computed once.

A row of tokens holds the branches of one or more trees. A branch is a contiguous range of the row; it continues the first
tokens of another branch, or is a root. Each sequence is a path: the first tokens of some branches, the last of which it ends in.
A token's position is its depth, and it attends to its own path only, so every sequence gets what it would get alone.

A pair is a tree of two branches: prompt with chosen, and rejected. Pairs with the same prompt, the turns of a conversation and
repeated system prompts share more.
"""

from __future__ import annotations

from bisect import bisect
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int64]

# Pairs share a beginning of at least this part of a sequence. Attention calls on copies of less cost more than they save.
MIN_SHARED_PART = 1 / 16


class Branch(NamedTuple):
    """Branch of a prefix tree: ``length`` tokens of its own, of positions from ``depth`` on.

    ``ancestors`` are the ``depth`` tokens before them, from the root on: (index of a branch, number of its first tokens).
    """

    depth: int
    length: int
    ancestors: tuple[tuple[int, int], ...] = ()


class PrefixTree(NamedTuple):
    """Branches in the order of the row (a branch before those that continue it), and which sequences are where.

    ``token_ids`` (T,) are the row's; ``row_indices[s]`` those of the tokens of sequence s.
    """

    branches: tuple[Branch, ...]
    token_ids: TokenIds
    row_indices: list[TokenIds]


def shared_length(one: TokenIds, other: TokenIds) -> int:
    """Number of tokens with which both sequences begin."""
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    first = int(differs.argmax()) if length else 0
    return first if length and differs[first] else length


def is_worth_sharing(shared: int, length: int) -> bool:
    """Whether a sequence of ``length`` tokens continues the ``shared`` ones of another pair, instead of repeating them."""
    return shared > 0 and shared >= MIN_SHARED_PART * length


def sort_key(token_ids: TokenIds) -> bytes:
    """Bytes that sort as the token ids do; sequences that begin alike are next to each other."""
    return token_ids.astype(">i4").tobytes()


def build_tree(pairs: Sequence[tuple[TokenIds, TokenIds]]) -> PrefixTree:
    """The tree of the sequences of ``pairs``, chosen and rejected of each. Deterministic.

    The longest sequence is inserted first, so the other sequences branch off long ones.
    """
    sequences = [each for pair in pairs for each in pair]
    inserted: list[tuple[bytes, int]] = []  # sorted; the neighbours of a sequence are those that it shares most with
    branches: list[Branch] = []  # in the order of insertion
    sources: list[int] = []  # sequence that a branch was made from
    end_branch: dict[int, int] = {}  # of each sequence
    for number in sorted(range(len(sequences)), key=lambda number: -len(sequences[number])):
        sequence = sequences[number]
        if not len(sequence):
            end_branch[number] = 0  # any
            continue
        entry = sort_key(sequence), number
        at = bisect(inserted, entry)
        neighbours = [other for _, other in inserted[max(0, at - 1) : at + 1]]
        inserted.insert(at, entry)
        shared, nearest = max(
            ((shared_length(sequence, sequences[other]), other) for other in neighbours), default=(0, -1)
        )
        if not is_worth_sharing(shared, len(sequence)):
            nearest = number ^ 1  # the other sequence of its pair
            shared = shared_length(sequence, sequences[nearest]) if nearest in end_branch else 0
        branch = Branch(shared, len(sequence) - shared)
        if shared:
            parent = end_branch[nearest]
            while branches[parent].depth >= shared:
                parent = branches[parent].ancestors[-1][0]
            if shared == len(sequence):
                end_branch[number] = parent
                continue
            from_parent = (parent, shared - branches[parent].depth)
            branch = branch._replace(ancestors=(*branches[parent].ancestors, from_parent))
        end_branch[number] = len(branches)
        branches.append(branch)
        sources.append(number)
    return _lay_out(sequences, branches, sources, end_branch)


def branch_row_indices(branches: Sequence[Branch]) -> list[TokenIds]:
    """For each branch the row indices of its path: its ancestors and its own tokens, (depth + length,)."""
    paths: list[TokenIds] = []
    start = 0
    for branch in branches:
        before = paths[branch.ancestors[-1][0]][: branch.depth] if branch.ancestors else np.empty(0, np.int64)
        paths.append(np.concatenate((before, np.arange(start, start + branch.length))))
        start += branch.length
    return paths


def _lay_out(
    sequences: list[TokenIds], branches: list[Branch], sources: list[int], end_branch: dict[int, int]
) -> PrefixTree:
    """Depth-first order: the branches that continue a branch follow it, the deepest first, so a subtree is contiguous."""
    children: defaultdict[int | None, list[int]] = defaultdict(list)
    for number, branch in enumerate(branches):
        children[branch.ancestors[-1][0] if branch.ancestors else None].append(number)
    order: list[int] = []
    stack = children[None][::-1]
    while stack:
        order.append(number := stack.pop())
        stack += sorted(children[number], key=lambda child: branches[child].depth)
    place = {number: at for at, number in enumerate(order)}
    ordered = tuple(
        branches[number]._replace(ancestors=tuple((place[other], count) for other, count in branches[number].ancestors))
        for number in order
    )
    paths = branch_row_indices(ordered)
    token_ids = [sequences[sources[number]][branches[number].depth :] for number in order]
    return PrefixTree(
        ordered,
        np.concatenate([np.empty(0, np.int64), *token_ids]),
        [paths[place[end_branch[number]]][: len(sequence)] for number, sequence in enumerate(sequences)],
    )
