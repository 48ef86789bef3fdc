"""Failures of ranks: which one the command reports, and as which error."""

from __future__ import annotations

import pytest

from orpo_cli.errors import DataError, HubRefused, Interrupted, MachineError, OrpoError, Problem, RunError, UsageError
from orpo_cli.launch.failure import FailureRecord, RankFailed, choose_failure, explain, is_secondary, killed_record


def record(rank: int, error: BaseException, at: int) -> FailureRecord:
    return FailureRecord(**{**vars(FailureRecord.of(error, rank, 0)), "time_ns": at})


LOST = RuntimeError("[../third_party/gloo/pair.cc:598] Connection closed by peer [127.0.0.1]:123")


@pytest.mark.parametrize(
    "error",
    [
        UsageError("no", remedy="Do."),
        MachineError("no", remedy="Do."),
        DataError("no"),
        RunError("no"),
        HubRefused("no", remedy="Do."),
    ],
)
def test_an_error_of_a_rank_is_raised_by_the_parent_with_the_same_exit_code(error: OrpoError) -> None:
    error.problems = (Problem("value-replaced", "is replaced", "training.x", line=3),)
    found = FailureRecord.from_json(FailureRecord.of(error, 1, 7).to_json())
    again = found.error(2)
    assert (type(again), again.exit_code, again.kind) == (type(error), error.exit_code, error.kind)
    assert (again.remedy, again.problems, found.step) == (error.remedy, error.problems, 7)
    prefix = f"rank 1 on {found.host}: " if isinstance(error, MachineError) else ""
    assert again.message == prefix + "no"
    assert found.error(1).message == "no"


def test_a_bug_has_its_traceback() -> None:
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError as error:
        found = FailureRecord.of(error, 0, 0).error(2)
    assert isinstance(found, RankFailed)
    assert found.exit_code == 1
    assert "Traceback" in found.message
    assert "ZeroDivisionError: by zero" in found.message


def test_an_error_of_the_disk_is_explained() -> None:
    assert isinstance(explain(OSError(28, "No space left on device", "x")), MachineError)


def test_a_lost_connection_is_secondary_also_as_the_cause_of_an_error() -> None:
    assert is_secondary(LOST)
    error = RunError("no")
    assert not is_secondary(error)
    error.__cause__ = LOST
    assert is_secondary(error)
    assert not is_secondary(ValueError("gloo"))


def test_the_first_cause_is_reported_then_a_killed_rank_then_a_lost_connection() -> None:
    lost, cause = record(0, LOST, 1), record(1, DataError("no"), 2)
    later, stopped = record(2, RunError("later"), 3), record(3, KeyboardInterrupt(), 0)
    killed = {2: killed_record(2, 99, 9)}
    assert choose_failure([later, lost, cause, stopped], killed) == cause
    assert choose_failure([lost, stopped], killed) == killed[2]
    assert choose_failure([lost, stopped], {}) == stopped
    later_stop = record(3, KeyboardInterrupt(), 9)
    assert choose_failure([later_stop, lost], {}) == lost
    assert choose_failure([later_stop, record(0, KeyboardInterrupt(), 10)], {}) == record(0, KeyboardInterrupt(), 10)
    assert choose_failure([stopped], {}) == stopped
    assert choose_failure([], {}) is None
    assert isinstance(stopped.error(2), Interrupted)


def test_a_killed_rank_is_named() -> None:
    found = killed_record(1, 99, 9).error(2)
    assert found.message.startswith("rank 1 (process 99 on ")
    assert found.message.endswith(" was killed by SIGKILL.")
    assert found.exit_code == 5
