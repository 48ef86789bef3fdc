"""Step sampler: every pair of an epoch once, the same number of batches on every rank, and as many tokens."""

from __future__ import annotations

import random
from itertools import chain
from statistics import fmean

import pytest

from orpo_cli.estimate.batching import deal_by_tokens, deal_step, random_order
from orpo_cli.training.step_sampler import StepLayout, StepSampler


def samplers(count: int, ranks: int, *, pairs_per_step: int, batch_size: int, packed: bool) -> list[StepSampler]:
    draw = random.Random(count)
    lengths = [draw.randint(1, 1000) for _ in range(count)]
    return [
        StepSampler(
            count,
            lengths if ranks > 1 else None,
            StepLayout(pairs_per_step, batch_size, packed, ranks, rank),
            lambda epoch: random_order(count, 7 + epoch),
        )
        for rank in range(ranks)
    ]


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "batches"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 7, 16, 21, 40])
def test_ranks_share_the_steps_of_one_process(count: int, ranks: int, packed: bool) -> None:
    pairs_per_step, batch_size = 8, 2
    for epoch in (0, 3):
        found = samplers(count, ranks, pairs_per_step=pairs_per_step, batch_size=batch_size, packed=packed)
        for each in found:
            each.set_epoch(epoch)
        of_rank = [list(each) for each in found]
        assert {len(batches) for batches in of_rank} == {len(found[0])}
        order = list(random_order(count, 7 + epoch))
        batches_per_step = -(-pairs_per_step // (batch_size * ranks))
        for step in range(-(-count // pairs_per_step)):
            batches = slice(step * batches_per_step, (step + 1) * batches_per_step)
            pairs = sorted(chain.from_iterable(chain.from_iterable(each[batches]) for each in of_rank))
            assert pairs == sorted(order[step * pairs_per_step : (step + 1) * pairs_per_step])


def test_one_rank_has_the_batches_of_torchs_sampler() -> None:
    (sampler,) = samplers(21, 1, pairs_per_step=8, batch_size=2, packed=True)
    order = list(random_order(21, 7))
    assert list(sampler) == [order[at : at + 2] for at in range(0, 21, 2)]


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("skipped", [0, 1, 4, 5, 11])
def test_a_resumed_epoch_has_the_batches_of_the_whole_one_after_those_it_leaves_out(ranks: int, skipped: int) -> None:
    for sampler in samplers(45, ranks, pairs_per_step=8, batch_size=2, packed=True):
        every = list(sampler)
        sampler.skipped = skipped
        assert list(sampler)[skipped:] == every[skipped:]
        assert list(sampler) == every  # the next epoch


def test_batches_of_trls_path_stay_together() -> None:
    shares = deal_step(range(10, 19), [9, 9, 1, 1, 1, 1, 1, 1, 5], 2, 2, packed=False)
    assert shares == [[[10, 11], [16, 17], []], [[12, 13], [14, 15], [18]]]


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_the_busiest_rank_has_few_more_tokens_than_the_mean(ranks: int) -> None:
    draw = random.Random(ranks)
    busiest = []
    for _ in range(100):
        sizes = [max(1, min(4096, round(draw.lognormvariate(5.5, 0.8)))) for _ in range(8 * ranks)]
        tokens = [sum(sizes[index] for index in share) for share in deal_by_tokens(sizes, ranks)]
        busiest.append(max(tokens) / fmean(tokens))
    assert fmean(busiest) < 1.05
