"""Status of a run: the process that trains it records in run.json how its attempt begins, how far it trains and why it ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orpo_cli.atomic import atomic_write_text
from orpo_cli.checkpoint_manifest import STATE
from orpo_cli.errors import DataError, UsageError
from orpo_cli.json_files import read_json_lines, read_json_object_or_empty
from orpo_cli.redaction import redact
from orpo_cli.run_attempts import (
    FAILED,
    FINISHED,
    attempts_of,
    now,
    running,
    timestamp,
    with_end,
    with_last_step,
    with_new_attempt,
)
from orpo_cli.run_creation import discard_run
from orpo_cli.run_result import result_files
from orpo_cli.rundir import EVENT, RunDir


def begin_attempt(
    rundir: RunDir,
    *,
    from_step: int,
    versions: Mapping[str, str | None],
    record: Mapping[str, Any] | None = None,
) -> None:
    """Record in run.json that this process trains the run; an attempt without an end was killed. ``record``: more fields."""
    rundir.run_before = rundir.run.read_text(encoding="utf-8")
    changes = _begun(rundir, from_step, versions)
    rundir.attempt = changes["attempts"][-1]["number"]
    rundir.write_run(error=None, **(record or {}), **changes)


def _begun(rundir: RunDir, from_step: int, versions: Mapping[str, str | None]) -> dict[str, Any]:
    before = attempts_of(rundir.read_run()) if rundir.run.exists() else []
    seen = [path.stat().st_mtime for path in (rundir.run, rundir.metrics) if path.exists()]
    attempts = with_new_attempt(
        before,
        from_step=from_step,
        versions=versions,
        died_at=timestamp(max(seen)) if seen else None,
        last_logged_step=rundir.last_logged_step(),
    )
    return running(attempts)


def withdraw_attempt(rundir: RunDir) -> None:
    """Restore run.json, and the name of a damaged result, as before this attempt, which changed nothing else."""
    rundir.check_owned()
    rundir.return_result()
    atomic_write_text(rundir.run, rundir.run_before)
    rundir.attempt = 0


def end_attempt(rundir: RunDir, reason: str, *, to_step: int = 0, detail: str | None = None, **changes: Any) -> None:
    """Record in run.json why the attempt ended: finished, interrupted or failed, which is also the status of the run.

    ``detail``: the signal, or the error. ``to_step``: the last step, where it is not recorded yet.
    """
    attempts = with_end(attempts_of(rundir.latest_run()), reason, detail=detail, to_step=to_step)
    rundir.attempt = 0
    if reason == FINISHED:
        changes["result"] = result_files(rundir.root, (rundir.adapter, rundir.model))
    rundir.write_run(status=reason, finished_at=now(), attempts=attempts, **changes)


def write_last_step(rundir: RunDir, step: int) -> None:
    """Record that the attempt has begun to train, and its last step so far: not every step is in metrics.jsonl."""
    rundir.write_run(attempts=with_last_step(attempts_of(rundir.latest_run()), step))


def record_result(rundir: RunDir) -> bool:
    """Record that the run has finished, if its process ended between the result and that record; whether it did.

    A result appears when it is complete. One of an earlier, shorter training of the same run does not count.
    """
    if not (rundir.adapter.is_dir() or rundir.model.is_dir()) or rundir.read_run().get("steps") is not None:
        return False
    lines, attempts = rundir.read_metrics(), attempts_of(rundir.read_run())
    steps = (attempts[-1].get("to_step") if attempts else None) or rundir.last_logged_step()
    trained = [line for line in reversed(lines) if line["step"] > 0]
    best = _best_step(rundir)
    saved = [line for line in trained if "eval_loss" in line and best in (None, line["step"])]
    end_attempt(
        rundir,
        FINISHED,
        to_step=steps or 0,
        steps=steps,
        final_metrics=next((line for line in trained if "loss" in line), {}),
        final_evaluation=next(iter(saved), {}),
        error=None,
    )
    return True


def _best_step(rundir: RunDir) -> int | None:
    """The step of the best checkpoint, where the result has its weights."""
    checkpoint = rundir.last_checkpoint(contents=False)
    if checkpoint is None or not rundir.read_plan().training.get("load_best_model_at_end"):
        return None
    step = read_json_object_or_empty(checkpoint / STATE).get("best_global_step")
    return step if isinstance(step, int) else None


def fail_attempt(rundir: RunDir, error: BaseException) -> None:
    """End an attempt that failed before its first step. Its log is kept, except where the error is one of the input."""
    abandon_attempt(rundir, FAILED, first_line(error), keep_logs=not isinstance(error, UsageError | DataError))


def abandon_attempt(rundir: RunDir, reason: str, detail: str, *, keep_logs: bool = False) -> None:
    """End an attempt whose last step is recorded, if it has trained one.

    A new run is removed, so that the same command can be repeated. A run with an earlier attempt, a line of metrics, a
    checkpoint, a result or files of the user is kept, with ``reason`` and ``detail`` as for ``end_attempt``.
    """
    rundir.check_owned()
    first = len(attempts_of(rundir.latest_run())) == 1
    if first and not _has_metrics(rundir) and not rundir.trained() and not rundir.foreign_names():
        discard_run(rundir, keep_logs=keep_logs)
    else:
        end_attempt(rundir, reason, detail=detail, error=detail if reason == FAILED else None)


def _has_metrics(rundir: RunDir) -> bool:
    """Whether metrics.jsonl has a line of a step or an evaluation, or one that cannot be read."""
    text = rundir.metrics.read_text(encoding="utf-8", errors="replace") if rundir.metrics.exists() else ""
    events = [line for line in read_json_lines(rundir.metrics) if line.get("kind") == EVENT]
    return len(events) < len(text.splitlines())


def first_line(error: BaseException) -> str:
    """The first line of an error for run.json, without secrets."""
    return redact(next(iter(str(error).splitlines()), repr(error)))
