"""The dimension in which FSDP2 shards a weight."""

from __future__ import annotations

import pytest
import torch
from torch.distributed.tensor import Shard

from orpo_cli.training.sharding import sharded_dimension


@pytest.mark.parametrize(
    ("shape", "ranks", "expected"),
    [
        ((4096, 1024), 32, None),
        ((33, 64), 32, None),
        ((8, 32_768, 6144), 32, Shard(1)),
        ((8, 100, 64), 32, Shard(2)),
        ((8, 33, 65), 32, None),
        ((8,), 32, None),
    ],
)
def test_a_weight_with_fewer_rows_than_ranks_is_sharded_in_a_later_dimension(
    shape: tuple[int, ...], ranks: int, expected: Shard | None
) -> None:
    assert sharded_dimension(torch.empty(shape, device="meta"), ranks) == expected
