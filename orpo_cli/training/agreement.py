"""Agreement of ranks: small values that all processes of a job exchange, for example a vote on running out of memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from orpo_cli.errors import RunError

T = TypeVar("T")


class OtherRankFailed(RunError):
    """An error of another rank, which has raised it itself."""

    is_secondary = True


class Agreement:
    """Collective operations on values in host memory, in a gloo group of its own, so that they do not wait for a GPU.

    Every rank calls the same operations in the same order. With one process they return their argument.
    """

    def __init__(self, num_processes: int = 1, timeout: timedelta | None = None) -> None:
        self.num_processes = num_processes
        self._group = dist.new_group(backend="gloo", timeout=timeout) if num_processes > 1 else None
        self.rank = dist.get_rank() if num_processes > 1 else 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sum over ranks of each value."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, values: Sequence[float]) -> list[float]:
        """The maximum over ranks of each value."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def any(self, value: bool) -> bool:
        """Whether ``value`` is true on a rank."""
        return bool(self.max([value])[0])

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order."""
        if self._group is None:
            return [value]
        values: list[T | None] = [None] * self.num_processes
        dist.all_gather_object(values, value, group=self._group)
        return values  # type: ignore[return-value]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Context of work without communication on every rank; where it fails on one, all others raise OtherRankFailed.

        Ranks leave it when all have done their work. A KeyboardInterrupt does not wait for them.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        messages = self.gather(None if failure is None else str(failure) or type(failure).__name__)
        if failure is not None:
            raise failure
        for rank, message in enumerate(messages):
            if message is not None:
                raise OtherRankFailed(f"rank {rank} failed: {message}")

    def _reduce(self, values: Sequence[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
        if self._group is None:
            return list(values)
        reduced = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(reduced, operation, group=self._group)
        found: list[float] = reduced.tolist()
        return found
