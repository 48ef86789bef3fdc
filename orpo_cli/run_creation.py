"""Creation and removal of a run directory: other processes see it complete and locked, or not at all."""

from __future__ import annotations

import re
import shlex
import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

from orpo_cli.errors import MachineError, UsageError
from orpo_cli.planning.plan import Plan
from orpo_cli.run_attempts import FINISHED, running, with_new_attempt
from orpo_cli.run_lock import HEARTBEAT_FILE, LOCK_FILE, RunLock, active_run_error, live_owner
from orpo_cli.rundir import RecipeTexts, RunDir

SIBLING_PREFIX = ".orpo-new-"  # not the name of the run, because that may be as long as a file name can be
ANOTHER_DIRECTORY = "Use another directory: --set output_dir=DIR."


def create_run(
    plan: Plan,
    recipe: RecipeTexts,
    *,
    versions: Mapping[str, str | None] | None = None,
    record: Mapping[str, Any] | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> RunDir:
    """Start a run in a directory that is absent or empty, and own it until the ``with`` block or the process ends.

    ``record``: more fields of run.json.

    Raises UsageError if it is in use, MachineError if it cannot be written.
    """
    rundir = RunDir(Path(plan.output_dir))
    raise_if_in_use(rundir)
    attempts = with_new_attempt([], from_step=0, versions=versions or {})

    def write(directory: Path) -> None:
        new = RunDir(directory)
        _raise_if_not_free(new)
        try:
            _remove_files(new, keep_logs=True)  # of a creation that was killed
            new.checkpoints.mkdir()
            new.write_recipe(recipe)
            new.write_plan(plan)
            new.write_run(name=plan.name, **(record or {}), **running(attempts))  # last: with it the directory is a run
        except BaseException:
            discard_run(new, keep_logs=True)
            raise

    try:
        rundir.lock = _create_locked(rundir.root, write, note)
    except OSError as error:
        raise_if_in_use(rundir)  # by another process that was faster
        raise MachineError(
            f"cannot make {rundir.root}: {error.strerror or error}.",
            remedy="Choose another directory: --set output_dir=DIR.",
        ) from error
    rundir.attempt = 1
    return rundir


def raise_if_in_use(rundir: RunDir) -> None:
    """Raise UsageError if the directory is not empty, or another process owns it."""
    _check_output_dir(rundir.root)
    if not rundir.root.is_dir():
        return
    if owner := live_owner(rundir.root):
        raise active_run_error(rundir.root, owner)
    _raise_if_not_free(rundir)


def _raise_if_not_free(rundir: RunDir) -> None:
    """Raise UsageError if the directory has files, except logs and those of a run whose creation or removal was killed."""
    names = {path.name for path in rundir.root.iterdir()}
    if names <= {rundir.logs.name} or (  # the logs of a job scheduler, which are older than the run
        LOCK_FILE in names and not rundir.is_run() and not rundir.foreign_names() and not rundir.has_work()
    ):
        return
    rename = "use another directory (--set output_dir=DIR)"
    if not rundir.is_run():
        raise UsageError(f"output_dir {rundir.root} is not empty, and is not a run.", remedy=f"Empty it, or {rename}.")
    status = rundir.status()
    go_on = (
        "train it longer (more epochs or steps, and --resume auto), "
        if status == FINISHED
        else "resume it (--resume auto), "
    )
    raise UsageError(
        f"output_dir {rundir.root} already has a run (status: {status}).",
        remedy=f"Either {go_on}{rename}, or remove it (rm -r {shlex.quote(str(rundir.root))}).",
    )


def _check_output_dir(root: Path) -> None:
    """Raise UsageError where a run can never be in ``root``: a file, a link to nothing. MachineError: a name that is too long."""
    try:
        is_link, exists = root.is_symlink(), root.exists()
        nearest = next(path for path in (root, *root.parents) if path.exists())
    except OSError as error:  # a name that is too long, a parent that cannot be read
        raise MachineError(f"output_dir {root}: {error.strerror or error}.", remedy=ANOTHER_DIRECTORY) from error
    if not nearest.is_dir():
        where = "" if exists else f"cannot be created: {nearest} "
        raise UsageError(f"output_dir {root} {where}is a file.", remedy=ANOTHER_DIRECTORY)
    if is_link and not exists:
        raise UsageError(
            f"output_dir {root} is a link to {root.readlink()}, which does not exist.",
            remedy=f"Create that directory, or: {ANOTHER_DIRECTORY}",
        )


def _create_locked(root: Path, write: Callable[[Path], None], note: Callable[[str], None]) -> RunLock:
    """Create ``root`` with the files that ``write`` writes into a directory, and return its lock.

    An absent directory appears with all files, by one rename. A directory that exists is filled in place, under its lock,
    because it may be a mount point or a link; ``write`` writes the file that makes it a run last. Raises OSError where that
    cannot be done, also where another process creates it at the same time. Messages name ``root``, never the hidden folder.
    """
    if root.is_dir():
        lock = RunLock.acquire(root, note)
        try:
            write(root)
        except BaseException:
            lock.release()
            raise
        return lock
    missing = list(takewhile(lambda path: not path.exists(), root.parents))
    for parent in reversed(missing):  # not mkdir(parents=True), which fails for a thousand folders in each other
        parent.mkdir(exist_ok=True)
    _remove_dead_siblings(root.parent)

    def named(text: str) -> str:
        return re.sub(rf"{re.escape(SIBLING_PREFIX)}[0-9a-f]+", lambda _: root.name, text)

    sibling, lock = _new_sibling(root.parent, lambda text: note(named(text)))
    try:
        write(sibling)
        sibling.rename(root)
    except BaseException as error:
        shutil.rmtree(sibling, ignore_errors=True)
        lock.release()
        if isinstance(error, MachineError):
            raise MachineError(named(error.message), remedy=error.remedy) from error
        raise
    lock.directory = root
    return lock


def _new_sibling(parent: Path, note: Callable[[str], None]) -> tuple[Path, RunLock]:
    while True:
        sibling = parent / f"{SIBLING_PREFIX}{uuid.uuid4().hex[:12]}"
        sibling.mkdir()
        # before it was locked, another process may take it for one of a killed process, and remove it
        with suppress(FileNotFoundError, UsageError):
            return sibling, RunLock.acquire(sibling, note)


def _remove_dead_siblings(parent: Path) -> None:
    """Remove what killed processes were creating, under its lock; a living one holds the lock."""
    for sibling in parent.glob(f"{SIBLING_PREFIX}*"):
        with suppress(OSError, UsageError):  # removed by another process; owned by a living one
            lock = RunLock.acquire(sibling, lambda text: None)
            shutil.rmtree(sibling, ignore_errors=True)
            lock.release()


def discard_run(rundir: RunDir, *, keep_logs: bool = False) -> None:
    """Remove the files of a run that failed before its first step, and the directory if it has no others.

    Logs of a job scheduler are not removed: it has them open. With ``keep_logs``, a new run can start in the directory, which
    has only the logs and the lock.
    Raises UsageError, and removes nothing, if the directory has a checkpoint or a result.
    """
    rundir.check_owned()
    if (kept := rundir.trained()) is not None:
        raise UsageError(
            f"{rundir.root} is not removed: it has {kept}.",
            remedy="Use another directory (--set output_dir=DIR), or move that away.",
        )
    rundir.attempt = 0
    _remove_files(rundir, keep_logs=keep_logs)
    if keep_logs and rundir.logs.is_dir():
        return
    for name in (HEARTBEAT_FILE, LOCK_FILE):  # the lock last: another process may own the directory after it
        (rundir.root / name).unlink(missing_ok=True)
    with suppress(OSError):
        rundir.root.rmdir()


def _remove_files(rundir: RunDir, *, keep_logs: bool) -> None:
    """Remove the files of a run, but not its lock: run.json first, so that a process killed here leaves no run."""
    rundir.run.unlink(missing_ok=True)
    for path in list(rundir.root.iterdir()):
        if path.name.startswith((HEARTBEAT_FILE, LOCK_FILE)) or rundir.is_foreign(path):
            continue
        if path == rundir.logs:
            if not keep_logs:
                _remove_attempt_logs(path)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _remove_attempt_logs(logs: Path) -> None:
    """Remove the logs of the attempts, and the folder unless a job scheduler writes there."""
    for path in logs.glob("attempt-*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    with suppress(OSError):
        logs.rmdir()
