"""End of an attempt to train that does not finish: what run.json records, and what the user is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from orpo_cli import interruption
from orpo_cli.errors import Interrupted, OrpoError
from orpo_cli.run_attempts import FINISHED, INTERRUPTED
from orpo_cli.run_status import abandon_attempt, fail_attempt, withdraw_attempt
from orpo_cli.rundir import RunDir

RESUME = "Continue with the same command and `--resume auto`."


@contextmanager
def ending_attempt_on_error(rundir: RunDir) -> Iterator[None]:
    """End the attempt where the preparation fails: a new run is removed, a resumed one is kept.

    Changed inputs leave no trace: the run is resumed when they are as before, and nothing has failed.
    """
    from orpo_cli.training.resume import InputsChanged

    try:
        yield
    except InputsChanged:
        withdraw_attempt(rundir)
        raise
    except Exception as error:
        if not _is_interruption(error):
            with suppress(
                OSError, OrpoError
            ):  # the run may be removed, or the disk full: the first error is the one to show
                fail_attempt(rundir, error)
        raise


@contextmanager
def recording_interruption(rundir: RunDir) -> Iterator[None]:
    """Record an interruption of the attempt in run.json, and say what is kept and how to continue."""
    try:
        yield
    except BaseException as error:
        if not _is_interruption(error) or not rundir.ends_attempts:
            raise
        if not rundir.attempt and not (rundir.is_run() and rundir.status() == FINISHED):
            raise
        raise _record_interruption(rundir) from error


def _is_interruption(error: BaseException) -> bool:
    """Whether a signal is the reason of an error, also of one into which a library converted it."""
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return True
    return interruption.was_raised() and not isinstance(error, OrpoError)


def _record_interruption(rundir: RunDir) -> Interrupted:
    rundir.check_owned()
    interrupted = interruption.interrupted()
    if rundir.status() == FINISHED:
        return Interrupted(
            f"{interrupted}: the training had finished, and the result is complete: {rundir.result()}.",
            remedy="The same command with `--resume auto` has nothing left to train, and exits with 0.",
        )
    with interruption.uninterrupted():
        abandon_attempt(rundir, INTERRUPTED, interruption.cause() or "KeyboardInterrupt")
    if not rundir.is_run():
        return Interrupted(
            f"{interrupted}: there was no step yet, and the run is removed.",
            remedy="Start again with the same command.",
        )
    checkpoint = rundir.last_checkpoint(contents=False)
    if checkpoint is None:
        return Interrupted(
            f"{interrupted}: there was no checkpoint yet, and the run starts again from step 0.", remedy=RESUME
        )
    return Interrupted(f"{interrupted}: the last checkpoint is {checkpoint}.", remedy=RESUME)
