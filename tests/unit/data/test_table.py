"""Table of tokenized pairs: the column of packed lengths."""

from __future__ import annotations

import torch
from support.steps import random_pairs

from orpo_cli.data.table import packed_length
from orpo_cli.data.tokenize import TruncatedPair
from orpo_cli.training.engine import packing


def test_the_column_of_packed_lengths_equals_the_spans_of_the_pairs() -> None:
    for pair in (each for seed in range(20) for each in random_pairs(seed)):
        ids = TruncatedPair(*(each.tolist() for each in pair[1:4]), prompt_truncated=False, completions_truncated=0)
        assert packed_length(ids) == packing.packed_length(pair)
    equal = packing.TokenPair("", *(torch.tensor(ids) for ids in ([1, 2], [3, 4], [3, 4])))
    assert packed_length(TruncatedPair([1, 2], [3, 4], [3, 4], False, 0)) == packing.packed_length(equal)
