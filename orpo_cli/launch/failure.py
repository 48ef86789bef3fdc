"""Failure of a rank: its record in the store of the job, and the choice of the one that the command reports.

When one rank fails, the others lose their connection to it and fail, too. The command reports the cause, not these.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import time
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from orpo_cli import interruption
from orpo_cli.errors import (
    DataError,
    HubError,
    HubRefused,
    Interrupted,
    MachineError,
    OrpoError,
    Problem,
    RunError,
    UsageError,
)
from orpo_cli.os_errors import explain_os_error

ERRORS = {each.exit_code: each for each in (UsageError, MachineError, DataError, RunError, HubError, HubRefused)}
BUG = "bug"
# Of errors that a rank gets because another one has ended.
LOST_CONNECTION = ("connection closed by peer", "connection reset", "broken pipe", "connection refused", "nccl", "gloo")
LOST_CONNECTION_TYPES = ("DistBackendError", "DistNetworkError", "DistStoreError", "DistError")


class RankFailed(OrpoError):
    """An error of the program in one of several processes, with its traceback."""

    kind = BUG


@dataclass(frozen=True)
class FailureRecord:
    """Failure of one rank. ``secondary``: it lost its connection to another rank, which failed before.

    ``cause``: the signal of an interruption. ``step``: the last step that was completed. ``time_ns``: by the clock of its machine.
    """

    rank: int
    kind: str
    exit_code: int
    message: str
    remedy: str | None = None
    problems: list[dict[str, Any]] = field(default_factory=list)
    cause: str | None = None
    step: int = 0
    secondary: bool = False
    host: str = field(default_factory=platform.node)
    pid: int = field(default_factory=os.getpid)
    time_ns: int = field(default_factory=time.time_ns)

    @classmethod
    def of(cls, error: BaseException, rank: int, step: int) -> FailureRecord:
        """The record of an error in this process."""
        explained = explain(error)
        problems = [vars(problem) for problem in explained.problems]
        values = explained.kind, explained.exit_code, explained.message, explained.remedy
        return cls(rank, *values, problems, interruption.cause(), step, secondary=is_secondary(error))

    @classmethod
    def from_json(cls, text: str | bytes) -> FailureRecord:
        """The record that ``to_json`` wrote."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """The text in the store."""
        return json.dumps(asdict(self))

    def error(self, world_size: int) -> OrpoError:
        """The error as it was raised; it names the rank where only the rank's machine or code can explain it."""
        if self.kind == Interrupted.kind:
            return Interrupted(self.message, remedy=self.remedy)
        who = f"rank {self.rank}" if self.rank >= 0 else f"machine {machine_of(self.rank)}"
        name = f"{who} on {self.host}: " if world_size > 1 and self.is_of_one_rank() else ""
        error = ERRORS.get(self.exit_code, RankFailed)(name + self.message, remedy=self.remedy)
        error.kind = self.kind
        error.problems = tuple(Problem(**each) for each in self.problems)
        return error

    def is_of_one_rank(self) -> bool:
        """Whether other ranks would not have had the same error: memory, disk, a bug, a lost connection."""
        return self.secondary or self.kind in (BUG, MachineError.kind)


def machine_of(rank: int) -> int:
    """The machine whose parent has the number ``rank`` in a record; the other way round, too."""
    return -1 - rank


def explain(error: BaseException) -> OrpoError:
    """The error as an OrpoError, as the command line reports it; a bug with its traceback."""
    if isinstance(error, OrpoError):
        return error
    if isinstance(error, KeyboardInterrupt) or interruption.was_raised():
        return Interrupted(f"{interruption.interrupted()}.")
    explained = explain_os_error(error)
    if explained is not None:
        return explained
    return RankFailed("an error of the program:\n" + "".join(traceback.format_exception(error)).rstrip())


def is_secondary(error: BaseException | None) -> bool:
    """Whether an error, or one that it comes from, is the loss of the connection to another rank."""
    while error is not None:
        if getattr(error, "is_secondary", False) or type(error).__name__ in LOST_CONNECTION_TYPES:
            return True
        if isinstance(error, RuntimeError | ConnectionError):
            text = str(error).lower()
            if any(each in text for each in LOST_CONNECTION):
                return True
        error = error.__cause__ or error.__context__
    return False


def killed_record(rank: int, pid: int, number: int) -> FailureRecord:
    """The record of a rank of this machine that a signal has ended without a word of its own."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    host = platform.node()
    return FailureRecord(
        rank,
        RunError.kind,
        RunError.exit_code,
        f"rank {rank} (process {pid} on {host}) was killed by {name}.",
        "Often the kernel ends a process that way when the main memory is full: see its log (dmesg). "
        "Continue with the same command and `--resume auto`.",
        host=host,
        pid=pid,
    )


def choose_failure(records: Iterable[FailureRecord], killed: Mapping[int, FailureRecord]) -> FailureRecord | None:
    """The failure that the command reports: the first cause, else a rank that was killed, else what came first.

    A signal may have stopped one rank only, which the others notice as a lost connection; or these come first, and the launcher
    has then sent the signal.
    """
    ordered = sorted(records, key=lambda each: each.time_ns)
    causes = [each for each in ordered if not each.secondary and each.kind != Interrupted.kind]
    interrupted = [each for each in ordered if each.kind == Interrupted.kind]
    if ordered and ordered[0] in interrupted:
        ordered = sorted(interrupted, key=lambda each: each.rank)  # rank 0 names the rank that got the signal
    return next((each for group in (causes, killed.values(), ordered) for each in group), None)
