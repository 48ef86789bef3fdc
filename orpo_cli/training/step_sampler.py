"""Step sampler: the batches of one rank. All pairs of an optimizer step are dealt to the ranks by their tokens.

accelerate's sampler gives each rank every n-th batch instead, and fills the last batches with pairs from the start of the epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.trainer_pt_utils import BatchRebalanceSampler, get_length_grouped_indices

from orpo_cli.estimate.batching import deal_step, num_batches, random_order


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
    """

    def __init__(
        self, count: int, lengths: Sequence[int] | None, layout: StepLayout, order: Callable[[int], Sequence[int]]
    ) -> None:
        self.count = count
        self.lengths = lengths
        self.layout = layout
        self.order = order
        self.epoch = 0
        self.batch_size = layout.batch_size if layout.num_ranks == 1 else None  # None: accelerate expects any size

    def __len__(self) -> int:
        steps, rest = divmod(self.count, self.layout.pairs_per_step)
        return steps * self._num_batches(self.layout.pairs_per_step) + self._num_batches(rest)

    def __iter__(self) -> Iterator[list[int]]:
        layout = self.layout
        order = list(self.order(self.epoch))[: self.count]
        for start in range(0, self.count, layout.pairs_per_step):
            step = order[start : start + layout.pairs_per_step]
            lengths = None if self.lengths is None else [self.lengths[index] for index in step]
            yield from deal_step(step, lengths, layout.num_ranks, layout.batch_size, packed=layout.packed)[layout.rank]

    def set_epoch(self, epoch: int) -> None:
        """Select the order of an epoch."""
        self.epoch = epoch

    def _num_batches(self, pairs: int) -> int:
        return num_batches(pairs, self.layout.batch_size, self.layout.num_ranks)


def epoch_order(dataset: Any, strategy: str, seed: int, pairs_per_step: int) -> Callable[[int], Sequence[int]]:
    """The order of the pairs in an epoch, by ``train_sampling_strategy``; the same on every rank."""

    def order(epoch: int) -> Sequence[int]:
        if strategy == "sequential":
            return range(len(dataset))
        if strategy == "random":
            return random_order(len(dataset), seed + epoch)
        generator = torch.Generator().manual_seed(seed + epoch)
        grouped: list[int] = get_length_grouped_indices(list(dataset["length"]), pairs_per_step, generator=generator)
        return grouped

    return order
