"""Batching of pairs, known before training: which pairs each step has, how a step is split into micro-batches, how much of
the first step is compared with trl.

The order of the pairs depends on the seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain, islice

from orpo_cli.plan.plan import Plan

MAX_SIMULATED_PAIRS = 50_000  # simulating more takes too long

# Before the first step, trl's own step computes a few pairs, too (``training.engine.check``). This must not be the memory peak of
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
