"""Batching of pairs, known before training: which pairs each step has, how a step is split into micro-batches, how much of
the first step is compared with trl.

The order of the pairs depends on the seed alone.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from itertools import count as count_up
from statistics import NormalDist, fmean, pstdev
from typing import TYPE_CHECKING

from orpo_cli.estimate.pair_lengths import PairLengths, PairSize
from orpo_cli.planning.plan import Plan

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_SIMULATED_PAIRS = 50_000  # simulating more takes too long

# Before the first step, trl's own step computes a few pairs, too (``training.engine.parity_check``). This must not be the memory peak of
# the run.
CHECKED_PAIRS = 2  # that both steps compute
MAX_CHECKED_TOKENS = 48  # tokens of each of their sequences, at most
MAX_CHECKED_LOGITS = 1 << 23  # that trl keeps for them, at most: 0.125 GB with its copies


def simulate_steps(plan: Plan, pairs: Sequence[PairSize]) -> Iterator[list[int]] | None:
    """Indices of the pairs of each optimizer step and process; a process without pairs in a step is left out.

    None for another sampling strategy than random and sequential, for too many pairs to simulate, or too few for a batch.
    """
    training, count = plan.training, len(pairs)
    strategy = training.get("train_sampling_strategy") or "random"
    taken = plan.total_pairs() or count * max(1, training.get("num_train_epochs") or 1)
    used = _used_in_epoch(plan, count)
    if strategy not in ("random", "sequential") or max(count, taken) > MAX_SIMULATED_PAIRS or not used:
        return None
    steps = islice(_steps(plan, pairs, used, random=strategy == "random"), count_steps(plan, count))
    return (share for step in steps for share in step if share)


def usable_pairs(count: int, batch_size: int, *, drop_last: bool) -> int:
    """Pairs of an epoch: with ``drop_last`` those of complete batches."""
    return count // batch_size * batch_size if drop_last else count


def num_batches(pairs: int, batch_size: int, ranks: int) -> int:
    """Batches of each rank in a step of ``pairs`` on all ranks."""
    return -(-pairs // (batch_size * ranks))


def deal_step(
    step: Sequence[int], lengths: Sequence[int] | None, ranks: int, batch_size: int, *, packed: bool
) -> list[list[list[int]]]:
    """The batches of each rank in a step, which are as many on every rank; those at the end may be empty.

    ``step`` are the indices of its pairs and ``lengths`` their tokens. A ``packed`` share is dealt pair by pair, and is one
    batch; otherwise complete batches are dealt, by their tokens with padding. One rank has all batches in order.
    """
    count = num_batches(len(step), batch_size, ranks)
    batches = [list(step[at : at + batch_size]) for at in range(0, len(step), batch_size)]
    if ranks == 1 or lengths is None:
        return [batches]
    if packed:
        return [
            [[step[at] for at in share], *([] for _ in range(count - 1))] for share in deal_by_tokens(lengths, ranks)
        ]
    tokens = [
        2 * len(batch) * max(lengths[at : at + batch_size])
        for at, batch in zip(range(0, len(step), batch_size), batches, strict=True)
    ]
    shares = deal_by_tokens(tokens, ranks, most=count)
    return [[*(batches[at] for at in share), *([] for _ in range(count - len(share)))] for share in shares]


def deal_by_tokens(sizes: Sequence[int], ranks: int, most: int | None = None) -> list[list[int]]:
    """Longest processing time first (LPT): indices of ``sizes`` for each rank, in order; a rank gets at most ``most``.

    The largest is dealt first, each to the rank with the fewest tokens.
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    tokens = [0] * ranks
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        free = (rank for rank in range(ranks) if most is None or len(shares[rank]) < most)
        rank = min(free, key=lambda rank: tokens[rank])
        shares[rank].append(index)
        tokens[rank] += sizes[index]
    return [sorted(share) for share in shares]


def split_by_token_budget(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """First-fit decreasing: indices of ``sizes`` in groups of at most ``budget`` in total; a larger size has its own group."""
    groups: list[list[int]] = []
    free: list[int] = []  # of each group
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        group = next((at for at, left in enumerate(free) if sizes[index] <= left), None)
        if group is None:
            groups.append([])
            free.append(budget)
            group = len(groups) - 1
        groups[group].append(index)
        free[group] -= sizes[index]
    return groups


def max_checked_tokens(vocab_size: int) -> int:
    """The most tokens of a sequence that both steps compute, for a vocabulary of ``vocab_size``."""
    return min(MAX_CHECKED_TOKENS, max(16, MAX_CHECKED_LOGITS // (max(1, vocab_size) * 2 * CHECKED_PAIRS)))


def _steps(plan: Plan, pairs: Sequence[PairSize], used: int, *, random: bool) -> Iterator[list[list[int]]]:
    """The pairs of each process in each step, of epoch after epoch."""
    training, processes, packed = plan.training, plan.launch.num_processes, plan.engine.fast_path != "off"
    size, seed = training["per_device_train_batch_size"], training.get("data_seed")
    seed = training["seed"] if seed is None else seed
    together = plan.launch.pairs_per_step
    for epoch in count_up():
        order = (random_order(len(pairs), seed + epoch) if random else range(len(pairs)))[:used]
        for at in range(0, used, together):
            step = [int(index) for index in order[at : at + together]]
            lengths = [pairs[index].packed if packed else pairs[index].longest for index in step]
            yield [list(chain(*share)) for share in deal_step(step, lengths, processes, size, packed=packed)]


def random_order(count: int, seed: int) -> NDArray[np.int64]:
    """The order of accelerate's SeedableRandomSampler, which is ``torch.randperm``; 8 bytes a pair.

    For a plan, which needs nothing else of torch, numpy computes the same: importing torch takes two seconds.
    """
    if "torch" not in sys.modules and count <= MAX_SIMULATED_PAIRS and 0 <= seed < 1 << 32:
        import numpy

        return numpy.array(numpy_order(count, seed), dtype=numpy.int64)
    import torch

    found: NDArray[np.int64] = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()
    return found


def numpy_order(count: int, seed: int) -> list[int]:
    """Fisher-Yates with the 32-bit numbers of MT19937, as torch's randperm on a CPU (aten/src/ATen/native/TensorFactories.cpp)."""
    import numpy as np

    numbers = np.random.RandomState(seed).randint(0, 1 << 32, max(0, count - 1), dtype=np.uint32)
    order = list(range(count))
    for at, offset in enumerate((numbers % np.arange(count, 1, -1, dtype=np.uint32)).tolist()):
        order[at], order[at + offset] = order[at + offset], order[at]
    return order


def pairs_of_process(plan: Plan) -> int:
    """Pairs of a process in an optimizer step; the last process may have fewer."""
    return math.ceil(plan.launch.pairs_per_step / plan.launch.num_processes)


def count_steps(plan: Plan, pairs: int) -> int:
    """Optimizer steps of a run on so many training pairs, as the Trainer counts them (``set_initial_training_values``).

    The last step of an epoch may have fewer pairs: no step has pairs of two epochs.
    """
    if (most := plan.training.get("max_steps") or -1) > 0:
        return int(most)
    return math.ceil(float(plan.training["num_train_epochs"]) * steps_per_epoch(plan, pairs))


def steps_per_epoch(plan: Plan, pairs: int) -> int:
    """Optimizer steps that go through all training pairs once; 0 where ``dataloader_drop_last`` leaves none."""
    return math.ceil(_used_in_epoch(plan, pairs) / plan.launch.pairs_per_step)


def due_steps(strategy: str, every: float, steps_per_epoch: int, total: int) -> Sequence[int]:
    """The steps after which a strategy of the Trainer evaluates or saves. Its strategy "best" saves at evaluations, at no known ones."""
    if strategy == "steps" and every >= 1:
        return range(int(every), total + 1, int(every))
    if strategy == "epoch":
        return [*range(steps_per_epoch, total, steps_per_epoch), total]
    return ()


def evaluation_steps(plan: Plan, steps: int, pairs: int | None) -> list[int]:
    """The steps after which a run of ``steps`` on ``pairs`` evaluates; 0: before the first step."""
    training = plan.training
    strategy, every = training.get("eval_strategy", "no"), training.get("eval_steps") or 1
    if strategy == "no":
        return []
    per_epoch = steps_per_epoch(plan, pairs) if pairs else steps
    due = set(due_steps(strategy, math.ceil(steps * every) if every < 1 else every, max(1, per_epoch), steps))
    delay = training.get("eval_delay") or 0
    due = {each for each in due if each >= delay * (per_epoch if strategy == "epoch" else 1)}
    if strategy == "steps" and steps >= delay:
        due.add(steps)  # ``training.interrupt.evaluation_is_missing``
    return sorted(due | {0} if training.get("eval_on_start") else due)


def _used_in_epoch(plan: Plan, pairs: int) -> int:
    """Pairs of an epoch, of so many. transformers' ``BatchRebalanceSampler`` drops an incomplete step, others an incomplete batch."""
    whole_steps = plan.training.get("train_sampling_strategy") == "batch_rebalance"
    size = plan.launch.pairs_per_step if whole_steps else plan.training["per_device_train_batch_size"]
    return usable_pairs(pairs, size, drop_last=bool(plan.training.get("dataloader_drop_last")))


def largest_micro_batch(plan: Plan, lengths: PairLengths) -> tuple[list[PairSize], int]:
    """The pairs of the largest micro-batch of the run, and the number of micro-batches in its step.

    From the simulated steps where possible; otherwise from the distribution of the lengths.
    """
    steps = simulate_steps(plan, lengths.pairs) if lengths.measured else None
    if steps is None:
        return _usual_micro_batch(plan, lengths)
    packed = plan.engine.fast_path != "off"
    largest: tuple[int, list[PairSize], int] = (0, [], 1)
    for indices in steps:
        pairs = [lengths.pairs[index] for index in indices]
        for group, count in _micro_batches(plan, pairs):
            tokens = sum(each.packed for each in group) if packed else len(group) * max(each.longest for each in group)
            if tokens > largest[0]:
                largest = tokens, group, count
    return largest[1:]


def _micro_batches(plan: Plan, pairs: list[PairSize]) -> list[tuple[list[PairSize], int]]:
    """The micro-batches of a step, each with their number."""
    if plan.engine.fast_path == "off":
        size = plan.training["per_device_train_batch_size"]
        groups = [pairs[at : at + size] for at in range(0, len(pairs), size)]
    else:
        cut = split_by_token_budget([pair.packed for pair in pairs], plan.engine.max_tokens_per_microbatch)
        groups = [[pairs[index] for index in indices] for indices in cut]
    return [(group, len(groups)) for group in groups]


def _usual_micro_batch(plan: Plan, lengths: PairLengths) -> tuple[list[PairSize], int]:
    """``largest_micro_batch`` from the distribution of the lengths."""
    batch, in_step = plan.training["per_device_train_batch_size"], pairs_of_process(plan)
    if plan.engine.fast_path == "off":
        longest = max(lengths.pairs, key=lambda pair: pair.longest)
        return [longest] * batch, math.ceil(in_step / batch)
    steps = max(1, count_steps(plan, len(lengths.pairs)))
    longest, mean = lengths.longest_of(steps * in_step), lengths.mean
    usual = min(_tokens_of_longest_step(lengths, in_step, steps), in_step * longest.packed)
    tokens = max(longest.packed, min(plan.engine.max_tokens_per_microbatch, usual))
    if longest.packed >= tokens:
        return [longest], max(1, math.ceil(in_step * mean.packed / tokens))
    count = max(1, min(in_step, round(tokens / max(1, mean.packed))))
    return _scale_pair(mean, count, tokens), max(1, math.ceil(usual / plan.engine.max_tokens_per_microbatch))


def _tokens_of_longest_step(lengths: PairLengths, in_step: int, steps: int) -> float:
    """Tokens of the longest of ``steps`` steps; a sum of many lengths is about normally distributed."""
    sizes = [pair.packed for pair in lengths.pairs]
    around = NormalDist(in_step * fmean(sizes), max(1e-9, math.sqrt(in_step) * pstdev(sizes)))
    return around.inv_cdf(min(steps / (steps + 1), 1 - 1e-12))


def _scale_pair(pair: PairSize, count: int, tokens: float) -> list[PairSize]:
    """``count`` pairs with the proportions of ``pair`` and ``tokens`` in total."""
    factor = tokens / max(1, count * pair.packed)
    return [PairSize(*(max(1, round(part * factor)) for part in pair))] * count


def checked_pairs(vocab_size: int, first_step: Sequence[PairSize]) -> list[PairSize]:
    """The pairs that both steps compute before the first step (``training.engine.parity_check``): the start of its shortest two."""
    half = max_checked_tokens(vocab_size) // 2
    shortest = sorted(first_step, key=lambda pair: pair.packed)[:CHECKED_PAIRS]
    return [PairSize(*(min(part, half) for part in pair)) for pair in shortest]


def first_step(plan: Plan, lengths: PairLengths) -> list[PairSize]:
    """The pairs of the first step: simulated where possible, otherwise spread over the distribution of the lengths."""
    steps = simulate_steps(plan, lengths.pairs) if lengths.measured else None
    if steps is not None:
        return [lengths.pairs[index] for index in next(steps)]
    by_size, in_step = sorted(lengths.pairs, key=lambda pair: pair.packed), pairs_of_process(plan)
    return [by_size[min(len(by_size) - 1, rank * len(by_size) // (in_step + 1))] for rank in range(1, in_step + 1)]
