"""Step sampler: the batches of one rank. All pairs of an optimizer step are dealt to the ranks by their tokens.

accelerate's sampler gives each rank every n-th batch instead, and fills the last batches with pairs from the start of the epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.trainer_pt_utils import BatchRebalanceSampler, get_length_grouped_indices

from orpo_cli.data.table import column_numbers
from orpo_cli.estimate.batching import deal_step, num_batches, random_order

Order = Sequence[int] | NDArray[np.int64]  # of the pairs of an epoch


@dataclass(frozen=True)
class StepLayout:
    """Shape of the steps: pairs of a step on all ranks, pairs of a batch, and whether a rank's share is ``packed``.

    Packed shares are dealt pair by pair, others as batches of ``batch_size`` consecutive pairs.
    """

    pairs_per_step: int
    batch_size: int
    packed: bool
    num_ranks: int = 1
    rank: int = 0


class StepSampler(BatchRebalanceSampler):
    """Batch sampler of a rank: for each step as many lists of indices as the other ranks have; the last ones may be empty.

    ``lengths`` are the tokens of each pair, which one rank does not need. ``order`` gives the order of an epoch. Every rank
    computes the same shares, without communication. The base class makes the Trainer leave the batches as they are.

    ``skipped``: batches of the next epoch that a resumed run leaves out. They are empty lists, since accelerate counts them.
    """

    def __init__(
        self,
        count: int,
        lengths: Sequence[int] | NDArray[np.int64] | None,
        layout: StepLayout,
        order: Callable[[int], Order],
    ) -> None:
        self.count = count
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.skipped = 0
        self.layout = layout
        self.order = order
        self.epoch = 0
        self.batch_size = layout.batch_size if layout.num_ranks == 1 else None  # None: accelerate expects any size

    def __len__(self) -> int:
        steps, rest = divmod(self.count, self.layout.pairs_per_step)
        return steps * self._num_batches(self.layout.pairs_per_step) + self._num_batches(rest)

    def __iter__(self) -> Iterator[list[int]]:
        layout = self.layout
        skipped, self.skipped = self.skipped, 0
        steps, rest = divmod(skipped, self._num_batches(layout.pairs_per_step))
        yield from repeat([], skipped - rest)
        order = self.order(self.epoch)[: self.count]
        for start in range(steps * layout.pairs_per_step, self.count, layout.pairs_per_step):
            step = [int(index) for index in order[start : start + layout.pairs_per_step]]
            lengths = None if self.lengths is None else self.lengths[step].tolist()
            yield from deal_step(step, lengths, layout.num_ranks, layout.batch_size, packed=layout.packed)[layout.rank]

    def set_epoch(self, epoch: int) -> None:
        """Select the order of an epoch."""
        self.epoch = epoch

    def _num_batches(self, pairs: int) -> int:
        return num_batches(pairs, self.layout.batch_size, self.layout.num_ranks)


def epoch_order(dataset: Any, strategy: str, seed: int, pairs_per_step: int) -> Callable[[int], Order]:
    """The order of the pairs in an epoch, by ``train_sampling_strategy``; the same on every rank."""

    def order(epoch: int) -> Order:
        if strategy == "sequential":
            return range(len(dataset))
        if strategy == "random":
            return random_order(len(dataset), seed + epoch)
        generator = torch.Generator().manual_seed(seed + epoch)
        lengths = column_numbers(dataset, "length").tolist()
        grouped: list[int] = get_length_grouped_indices(lengths, pairs_per_step, generator=generator)
        return grouped

    return order
