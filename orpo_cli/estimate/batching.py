"""Which pairs come together in a step, known before training begins since they are drawn from the seed alone, how a step is
cut up, and how much of the first is checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain, islice

from orpo_cli.plan.plan import Plan

MAX_SIMULATED_PAIRS = 50_000  # pairs that are followed through a run

# Before the first step trl's path computes a few pairs as well (``training.engine.check``). It must not be the peak of the run.
CHECKED_PAIRS = 2  # pairs that both paths compute
MAX_CHECKED_TOKENS = 48  # tokens of each of their sequences, at most
MAX_CHECKED_LOGITS = (
    1 << 23
)  # that trl keeps for them, at most: an eighth of a gigabyte with the copies that it makes of them


def simulate_steps(plan: Plan, count: int) -> Iterator[list[int]] | None:
    """The places of the pairs of every optimizer step of every process, of ``count`` that training has.

    None where they are drawn in another way than at random or one after the other, are too many to follow, or too few for a batch.
    """
    training = plan.training
    strategy = training.get("train_sampling_strategy") or "random"
    most, epochs = training.get("max_steps") or -1, training.get("num_train_epochs") or 1
    taken = plan.total_pairs() or count * max(1, epochs)
    size, drop_last = training["per_device_train_batch_size"], bool(training.get("dataloader_drop_last"))
    least = size if drop_last else 1  # fewer make no batch, and training says so
    if strategy not in ("random", "sequential") or max(count, taken) > MAX_SIMULATED_PAIRS or count < least:
        return None
    processes = plan.launch.num_processes
    together = (processes if isinstance(processes, int) else 1) * training["gradient_accumulation_steps"]
    steps = _steps(plan, count, together, random=strategy == "random")
    batches = count // size if drop_last else -(-count // size)
    in_a_pass = -(-batches // together)
    wanted = most if most > 0 else max(1, math.ceil(in_a_pass * epochs))
    return islice(steps, wanted * together // training["gradient_accumulation_steps"])


def split_by_token_budget(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """The places of ``sizes`` in groups of at most ``budget`` in all (a larger one is alone), largest first; the same for the same."""
    groups: list[list[int]] = []
    room: list[int] = []
    for place in sorted(range(len(sizes)), key=lambda place: (-sizes[place], place)):
        group = next((at for at, free in enumerate(room) if sizes[place] <= free), None)
        if group is None:
            groups.append([])
            room.append(budget)
            group = len(groups) - 1
        groups[group].append(place)
        room[group] -= sizes[place]
    return groups


def max_checked_tokens(vocab_size: int) -> int:
    """Tokens of a sequence that is computed by both paths, at most, where the vocabulary has ``words``."""
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
    """As accelerate's SeedableRandomSampler draws it."""
    import torch

    found: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return found
