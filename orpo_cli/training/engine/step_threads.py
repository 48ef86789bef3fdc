"""Threads of a step on a CPU: several micro-batches at the same time, each on a part of the cores.

The operators of a small model are too short to divide among cores: while one thread of Python goes from one to the next, the other
cores wait. Two micro-batches on one core each are faster than one after the other on both. Each thread adds up the gradients of
its micro-batches in their order, and then those of the threads are added, so a step gives the same bits each time. They differ from
those of one thread by the order of the sums alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from peft.tuners.lora.layer import ParamWrapper

from orpo_cli.estimate.batching import deal_by_tokens, split_by_token_budget
from orpo_cli.training.allocator import thread_of_main_arena
from orpo_cli.training.engine.packed_step import Engine
from orpo_cli.training.engine.packing import MicroBatch, TokenPair, packed_length, token_families

THREADS = 2
# The busiest thread may have this part of the tokens of a step; with more, one thread of Python on all cores is as fast.
MAX_SHARE = 0.7
CHANGING_ROTARY = {"dynamic", "longrope"}  # kinds of rotary embedding whose module changes in a forward pass


def suits_threads(model: torch.nn.Module, device: torch.device) -> bool:
    """Whether threads can run forward passes of ``model`` at the same time: an adapter in float32 on a CPU, without dropout."""
    if device.type != "cpu" or not hasattr(model, "peft_config"):
        return False
    if any(each.is_floating_point() and each.dtype != torch.float32 for each in model.parameters()):
        return False
    if any(not each.is_floating_point() for each in model.parameters()):  # quantized
        return False
    for module in model.modules():
        kinds = getattr(module, "rope_type", "default")
        if not CHANGING_ROTARY.isdisjoint(kinds.values() if isinstance(kinds, dict) else [kinds]):
            return False
        if isinstance(module, torch.nn.Dropout) and module.p > 0:  # all threads draw from one generator
            return False
        if isinstance(module, ParamWrapper):  # changes the parameters of its layer in a forward pass
            return False
    return True


def share_step(pairs: Sequence[TokenPair], max_tokens: int) -> list[list[list[int]]] | None:
    """For each thread the groups of indices of ``pairs`` that are its micro-batches, in order; None where threads are not faster.

    All threads together hold at most ``max_tokens``, or the tokens of the longest pair: see ``TokenGate``.
    """
    limit = max([max_tokens, *map(packed_length, pairs)])
    total = sum(size for size, _ in token_families(pairs, limit))
    best, tokens = None, MAX_SHARE * total
    for family_limit in (
        limit,
        limit // THREADS,
        total // THREADS,
        0,
    ):  # smaller families share less, and are divided better
        families = token_families(pairs, family_limit)
        shares, sizes = [], []
        for number, dealt in enumerate(deal_by_tokens([size for size, _ in families], THREADS)):
            mine = [families[index] for index in dealt]
            groups = split_by_token_budget([size for size, _ in mine], limit // THREADS)
            ordered = groups if number % 2 == 0 else groups[::-1]  # long with short ones
            shares.append([[index for member in group for index in mine[member][1]] for group in ordered])
            sizes.append([sum(mine[member][0] for member in group) for group in ordered])
        busy = busiest_tokens(sizes, limit)
        if all(shares) and busy < tokens:
            best, tokens = shares, busy
    return best


def busiest_tokens(sizes: Sequence[Sequence[int]], limit: int) -> float:
    """The duration of the micro-batches of each thread, in tokens: one waits while those at work have no room for it."""
    waiting, now = [list(each) for each in sizes], 0
    running: dict[int, tuple[int, int]] = {}  # by thread: end and tokens
    while any(waiting) or running:
        for thread, queue in enumerate(waiting):
            live = sum(tokens for _, tokens in running.values())
            if queue and thread not in running and (not live or live + queue[0] <= limit):
                running[thread] = now + queue[0], queue.pop(0)
        now, thread = min((end, thread) for thread, (end, _) in running.items())
        del running[thread]
    return now


class TokenGate:
    """Limit of the tokens of the micro-batches at work. One that is larger works alone."""

    def __init__(self, limit: int) -> None:
        self.limit, self.live = limit, 0
        self.changed = threading.Condition()

    @contextmanager
    def admitted(self, tokens: int) -> Iterator[None]:
        """Context of the work on a micro-batch of this many tokens."""
        with self.changed:
            self.changed.wait_for(lambda: not self.live or self.live + tokens <= self.limit)
            self.live += tokens
        try:
            yield
        finally:
            with self.changed:
                self.live -= tokens
                self.changed.notify_all()


class FailedShare(Exception):
    """``batch`` raised ``error``."""

    def __init__(self, batch: MicroBatch, error: BaseException) -> None:
        super().__init__(error)
        self.batch, self.error = batch, error


class StepThreads:
    """The threads that compute the steps of ``engine``, with the cores that torch has at each step."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.executors = [thread_of_main_arena() for _ in range(THREADS - 1)]

    def compute(
        self, model: Any, pairs: Sequence[TokenPair], shares: Sequence[Sequence[Sequence[int]]]
    ) -> torch.Tensor:
        """Forward and backward of the step with these shares of ``share_step``; adds to the gradients, and returns the loss.

        Raises FailedShare for the first error, after all threads have ended.
        """
        packed = iter(self.engine.pack_groups(pairs, chain.from_iterable(shares)))
        with self.engine.patched_layers():
            return self._compute(model, [[next(packed) for _ in share] for share in shares])

    def _compute(self, model: Any, shares: Sequence[Sequence[MicroBatch]]) -> torch.Tensor:
        parameters = [each for each in model.parameters() if each.requires_grad]
        gate = TokenGate(max([self.engine.max_tokens, *(batch.num_tokens for share in shares for batch in share)]))
        stop, cores = threading.Event(), torch.get_num_threads()

        def run(share: Sequence[MicroBatch]) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
            torch.set_num_threads(max(1, cores // THREADS))
            losses, sums = [], list[Any]([None] * len(parameters))
            for batch in share:
                with gate.admitted(batch.num_tokens):
                    if stop.is_set():
                        break
                    try:
                        with self.engine.patched_thread(batch):
                            loss = self.engine.loss_share(model, batch)
                            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                    except BaseException as error:
                        stop.set()
                        raise FailedShare(batch, error) from error
                losses.append(loss.detach())
                sums = list(map(_add, sums, gradients))
                del loss, gradients
            return sum(losses, start=torch.zeros(())), sums

        others = [each.submit(run, share) for each, share in zip(self.executors, shares[1:], strict=True)]
        try:
            results = [run(shares[0])]
        except BaseException:
            stop.set()
            raise
        finally:
            wait(others)
            torch.set_num_threads(cores)
        results += [each.result() for each in others]
        for parameter, *gradients in zip(parameters, *(sums for _, sums in results), strict=True):
            for gradient in gradients:
                total = _add(parameter.grad, gradient)
                parameter.grad = None if total is None else total.contiguous()
        return sum((loss for loss, _ in results), start=torch.zeros(()))


def _add(total: torch.Tensor | None, gradient: torch.Tensor | None) -> torch.Tensor | None:
    if total is None or gradient is None:
        return gradient if total is None else total
    return total + gradient
