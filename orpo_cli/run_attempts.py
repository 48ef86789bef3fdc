"""Attempts of a run in run.json: one entry for each process that trained it, with its start, its end and the reason of its end.

``from_step`` is the step of the checkpoint that an attempt resumed from, or 0. ``to_step`` is its last step; it is None until the steps
begin, so that an attempt that was killed before has trained nothing. The reasons are finished, interrupted (the process ended by
itself, after a signal or for ``save_before``), failed, and killed: the next attempt found it without an end.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

Attempt = dict[str, Any]
STATUSES = RUNNING, FINISHED, INTERRUPTED, FAILED = "running", "finished", "interrupted", "failed"  # in run.json
BEGAN_VARIABLE = "ORPO_STARTED_AT"  # of `command_began`, for a rank and for a call in Python
KILLED = "killed"  # of an attempt, and shown for a run whose process is gone


def now() -> str:
    """The present time in UTC, as all records have it."""
    return timestamp(time.time())


def timestamp(seconds: float) -> str:
    """A time in seconds since 1970, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def command_began() -> float:
    """When the command that trains, or the call in Python, began, in seconds since 1970."""
    import psutil  # other commands do not need it

    return float(os.environ.get(BEGAN_VARIABLE) or psutil.Process().create_time())


def attempts_of(run: Mapping[str, Any]) -> list[Attempt]:
    """The attempts in run.json; for a run of a version that recorded none, one from its start and end."""
    found = run.get("attempts")
    if isinstance(found, list) and all(
        isinstance(each, dict) and isinstance(each.get("number"), int) for each in found
    ):
        return [dict(each) for each in found]
    if "status" not in run:
        return []
    over = run["status"] != RUNNING
    return [
        {
            "number": 1, "started_at": run.get("started_at"), "ended_at": run.get("finished_at") if over else None,
            "reason": run["status"] if over else None, "detail": run.get("error"), "host": run.get("host"),
            "pid": run.get("pid"), "from_step": 0, "to_step": run.get("steps") or 0, "versions": run.get("versions", {}),
        }
    ]  # fmt: skip


def last_step_without_manifest(attempts: Sequence[Attempt]) -> float:
    """The last step up to which checkpoints may have no manifest: version 0.2.0 wrote none, and recorded no attempts.

    Its attempt, added when the run is resumed, has no version of ``orpo_cli``.
    """
    recorded = (each for each in attempts if "orpo_cli" in (each.get("versions") or {}))
    return next((each.get("from_step") or 0 for each in recorded), math.inf)


def with_new_attempt(
    attempts: Sequence[Attempt],
    *,
    from_step: int,
    versions: Mapping[str, str | None],
    died_at: str | None = None,
    last_logged_step: int | None = None,
) -> list[Attempt]:
    """The attempts and the one of this process. An attempt that has no end was killed, at ``died_at``.

    Its last step is the last one in metrics.jsonl, or the one that this attempt resumes from.
    """
    before = list(attempts)
    if before and before[-1].get("reason") is None:
        begun = before[-1].get("to_step") is not None
        last = with_last_step(before, max(last_logged_step or 0, from_step) if begun else 0)[-1]
        before[-1] = {**last, "ended_at": died_at, "reason": KILLED}
    new = {
        "number": before[-1]["number"] + 1 if before else 1, "started_at": now(), "ended_at": None, "reason": None,
        "detail": None, "host": platform.node(), "pid": os.getpid(), "from_step": from_step, "to_step": None,
        "versions": dict(versions),
    }  # fmt: skip
    return [*before, new]


def running(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """The fields of run.json while this process trains the run."""
    return {"status": RUNNING, "pid": os.getpid(), "host": platform.node(), "attempts": list(attempts)}


def with_last_step(attempts: Sequence[Attempt], step: int) -> list[Attempt]:
    """The attempts with the last step of the last one, which has trained at least to ``step``."""
    if not attempts:
        return []
    last = attempts[-1]
    return [*attempts[:-1], {**last, "to_step": max(step, last.get("from_step") or 0, last.get("to_step") or 0)}]


def with_end(attempts: Sequence[Attempt], reason: str, *, detail: str | None, to_step: int) -> list[Attempt]:
    """The attempts with the end of the last one."""
    end = {"ended_at": now(), "reason": reason, "detail": detail}
    return [*attempts[:-1], *({**last, **end} for last in with_last_step(attempts, to_step)[-1:])]
