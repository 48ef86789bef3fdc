"""Prefix trees: every token of the sequences once, and each token sees the tokens before it in its sequence alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from orpo_cli.training.engine import prefix_tree
from orpo_cli.training.engine.packed_attention_cuda import last_descendants
from orpo_cli.training.engine.prefix_tree import PrefixTree, branch_row_indices, build_tree, is_worth_sharing

Pair = tuple[np.ndarray, np.ndarray]


def random_sequences(seed: int, vocabulary: int, count: int = 12, longest: int = 14) -> list[Pair]:
    """Pairs of random sequences over a few tokens, so that most begin alike, some are prefixes, and some are equal or empty."""
    draw = random.Random(seed)

    def ids() -> np.ndarray:
        return np.array([draw.randrange(vocabulary) for _ in range(draw.randint(0, longest))], dtype=np.int64)

    return [(ids(), ids()) for _ in range(count)]


def assert_holds_the_sequences(tree: PrefixTree, pairs: list[Pair]) -> None:
    sequences = [each for pair in pairs for each in pair]
    positions = np.concatenate([np.arange(each.length) + each.depth for each in tree.branches])
    paths = branch_row_indices(tree.branches)
    assert len(tree.token_ids) == len(positions) == sum(branch.length for branch in tree.branches)
    seen = np.zeros(
        (len(positions), len(positions)), bool
    )  # dense reference: token, and tokens before it in a sequence
    for sequence, rows in zip(sequences, tree.row_indices, strict=True):
        assert tree.token_ids[rows].tolist() == sequence.tolist()
        assert positions[rows].tolist() == list(range(len(sequence)))
        for at, row in enumerate(rows):
            seen[row, rows[: at + 1]] = True
    assert (seen.sum(1) == positions + 1).all()  # one past for each token, whichever sequence it is seen from
    start = 0
    for branch, path in zip(tree.branches, paths, strict=True):
        assert branch.depth == sum(count for _, count in branch.ancestors)
        for at in range(branch.length):
            assert seen[start + at].nonzero()[0].tolist() == sorted(path[: branch.depth + at + 1])
        start += branch.length
    last, rows = last_descendants(tree.branches), torch.arange(len(positions))
    mask = (rows[None] <= rows[:, None]) & (rows[:, None] <= last[None])  # as FlexAttention computes it
    assert torch.equal(mask, torch.from_numpy(seen))


@pytest.mark.parametrize("vocabulary", [1, 2, 3, 9])
@pytest.mark.parametrize("part", [0.0, 1 / 16, 0.5, 2.0])
def test_a_tree_holds_its_sequences(vocabulary: int, part: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_tree, "MIN_SHARED_PART", part)
    for seed in range(25):
        pairs = random_sequences(seed, vocabulary)
        assert_holds_the_sequences(build_tree(pairs), pairs)


def test_every_token_of_a_branch_is_there_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_tree, "MIN_SHARED_PART", 0.0)
    for seed in range(25):
        pairs = random_sequences(seed, 2)
        prefixes = {tuple(each[:length]) for pair in pairs for each in pair for length in range(1, len(each) + 1)}
        assert len(build_tree(pairs).token_ids) == len(prefixes)


def test_a_pair_is_a_tree_of_two_branches() -> None:
    chosen, rejected = np.array([5, 6, 7, 8, 9]), np.array([5, 6, 1, 2])
    tree = build_tree([(chosen, rejected)])
    assert tree.token_ids.tolist() == [5, 6, 7, 8, 9, 1, 2]
    assert [tuple(branch) for branch in tree.branches] == [(0, 5, ()), (2, 2, ((0, 2),))]


def test_few_common_tokens_of_long_pairs_are_repeated() -> None:
    """The tokens of a chat template before the first message, say."""
    assert not is_worth_sharing(3, 100)
    assert is_worth_sharing(30, 100)
    first, second = (np.concatenate((np.arange(3), np.full(100, token))) for token in (7, 8))
    assert len(build_tree([(first, first), (second, second)]).token_ids) == 206
