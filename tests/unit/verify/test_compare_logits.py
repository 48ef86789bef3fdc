"""Logit comparison: the largest difference and its position."""

from __future__ import annotations

import torch

from orpo_cli.verify.compare_logits import LogitPair, compare_logits


def test_nan_is_the_largest_difference():
    one, other = [torch.zeros(3, 5), torch.zeros(2, 5)], [torch.zeros(3, 5), torch.zeros(2, 5)]
    other[0][1, 2] = 4.0
    assert compare_logits(one, other).largest == LogitPair(1, 2, 2, 0.0, 4.0)
    other[1][0, 3] = float("nan")
    found = compare_logits(one, other)
    assert found.max_absolute != found.max_absolute
    assert (found.largest.prompt, found.largest.position, found.largest.token) == (2, 1, 3)
    other[0][0, 0] = 9.0
    assert compare_logits(one[::-1], other[::-1]).largest.prompt == 1
