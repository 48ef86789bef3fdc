"""Failed attempt: what a training that fails leaves in the run directory, recorded by its process or by the parent of its ranks."""

from __future__ import annotations

from contextlib import suppress

from orpo_cli.errors import OrpoError
from orpo_cli.run_attempts import FAILED
from orpo_cli.run_status import end_attempt, fail_attempt, first_line
from orpo_cli.rundir import RunDir
from orpo_cli.training.checkpoint_writer import remove_staging


def record_failure(rundir: RunDir, error: BaseException, step: int) -> None:
    """Write the error to run.json; a new run without a step is removed for the next try, except its log.

    An error of the disk is not raised: run.json may be lost, or have no space. A run without a process counts as killed.
    """
    with suppress(OSError, OrpoError):
        rundir.check_owned()
        remove_staging(rundir.checkpoints)
        if step:
            end_attempt(rundir, FAILED, to_step=step, detail=first_line(error), error=first_line(error))
        else:
            fail_attempt(rundir, error)
