"""Batching of pairs, known before training: which pairs each step has, how a step is split into micro-batches, how much of
the first step is compared with trl.

The order of the pairs depends on the seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from statistics import NormalDist, fmean, pstdev

from orpo_cli.estimate.pair_lengths import PairLengths, PairSize
from orpo_cli.plan.plan import Plan

MAX_SIMULATED_PAIRS = 50_000  # simulating more takes too long

# Before the first step, trl's own step computes a few pairs, too (``training.engine.parity_check``). This must not be the memory peak of
# the run.
CHECKED_PAIRS = 2  # that both steps compute
MAX_CHECKED_TOKENS = 48  # tokens of each of their sequences, at most
MAX_CHECKED_LOGITS = 1 << 23  # that trl keeps for them, at most: 0.125 GB with its copies


def simulate_steps(plan: Plan, count: int) -> Iterator[list[int]] | None:
    """Indices of the pairs of each optimizer step and process, for ``count`` training pairs.

    None for another sampling strategy than random and sequential, for too many pairs to simulate, or too few for a batch.
    """
    training = plan.training
    strategy = training.get("train_sampling_strategy") or "random"
    most, epochs = training.get("max_steps") or -1, training.get("num_train_epochs") or 1
    taken = plan.total_pairs() or count * max(1, epochs)
    size, drop_last = training["per_device_train_batch_size"], bool(training.get("dataloader_drop_last"))
    least = size if drop_last else 1  # fewer make no batch; training reports it
    if strategy not in ("random", "sequential") or max(count, taken) > MAX_SIMULATED_PAIRS or count < least:
        return None
    together = plan.launch.num_processes * training["gradient_accumulation_steps"]
    steps = _steps(plan, count, together, random=strategy == "random")
    batches = count // size if drop_last else -(-count // size)
    in_a_pass = -(-batches // together)
    wanted = most if most > 0 else max(1, math.ceil(in_a_pass * epochs))
    return islice(steps, wanted * together // training["gradient_accumulation_steps"])


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


def _steps(plan: Plan, count: int, together: int, *, random: bool) -> Iterator[list[int]]:
    training = plan.training
    size, seed = training["per_device_train_batch_size"], training.get("data_seed")
    seed = training["seed"] if seed is None else seed
    processes = together // training["gradient_accumulation_steps"]
    epoch = 0
    while True:
        order = _random_order(count, seed + epoch) if random else range(count)
        batches = [list(order[at : at + size]) for at in range(0, count, size)]
        if training.get("dataloader_drop_last") and len(batches[-1]) < size:
            batches.pop()
        for at in range(0, len(batches), together):
            step = batches[at : at + together]
            yield from (list(chain(*step[process::processes])) for process in range(min(processes, len(step))))
        epoch += 1


def _random_order(count: int, seed: int) -> Sequence[int]:
    """The order of accelerate's SeedableRandomSampler."""
    import torch

    found: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return found


def pairs_per_step(plan: Plan) -> int:
    """Pairs of a process in an optimizer step."""
    return int(plan.training["per_device_train_batch_size"] * plan.training["gradient_accumulation_steps"])


def total_steps(plan: Plan, lengths: PairLengths) -> int:
    """Optimizer steps of a run, as far as the number of pairs is known."""
    if (most := plan.training.get("max_steps") or -1) > 0:
        return int(most)
    return max(1, round(float(len(lengths.pairs) * plan.training["num_train_epochs"] / pairs_per_step(plan))))


def largest_micro_batch(plan: Plan, lengths: PairLengths) -> tuple[list[PairSize], int]:
    """The pairs of the largest micro-batch of the run, and the number of micro-batches in its step.

    From the simulated steps where possible; otherwise from the distribution of the lengths.
    """
    steps = simulate_steps(plan, len(lengths.pairs)) if lengths.measured else None
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
    batch, in_step = plan.training["per_device_train_batch_size"], pairs_per_step(plan)
    if plan.engine.fast_path == "off":
        longest = max(lengths.pairs, key=lambda pair: pair.longest)
        return [longest] * batch, in_step // batch
    steps = total_steps(plan, lengths)
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
    steps = simulate_steps(plan, len(lengths.pairs)) if lengths.measured else None
    if steps is not None:
        return [lengths.pairs[index] for index in next(steps)]
    by_size, in_step = sorted(lengths.pairs, key=lambda pair: pair.packed), pairs_per_step(plan)
    return [by_size[min(len(by_size) - 1, rank * len(by_size) // (in_step + 1))] for rank in range(1, in_step + 1)]
