"""Forked processes that run a function: to kill it at each file operation, or to let several run at once."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from orpo_cli.errors import UsageError

FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.chmod", "fcntl.flock"}


def start_fork(function: Callable[[], object]) -> int:
    """The id of a forked process that runs ``function``; it exits with 0, or with 1 where the function raises."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        function()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(process: int) -> int:
    """The exit code of a forked process, or minus the number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kill_at_each_file_operation(function: Callable[[], object]) -> Iterator[int]:
    """Run ``function`` in forks, each killed one file operation later; yield after each, until one is not killed."""
    for number in count(1):
        code = wait(start_fork(partial(_run_and_die, function, number)))
        if code != -signal.SIGKILL:
            assert code == 0
            return
        yield number


def _run_and_die(function: Callable[[], object], number: int) -> None:
    seen = 0

    def hook(event: str, _: object) -> None:
        nonlocal seen
        if event in FILE_EVENTS:
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    function()
    os._exit(0)  # the hook stays, and would kill what comes next


def race(function: Callable[[], object], competitors: int = 4) -> int:
    """The number of forks, started at once, whose call of ``function`` succeeds; the others find that a run is going on.

    A fork that succeeds keeps its result until every other one has tried.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)

        def compete() -> None:
            code, kept = 1, None
            while not (folder / "start").exists():
                time.sleep(0.001)
            try:
                kept = function()
                code = 0
            except UsageError as error:
                code = 2 if "a run is going on there" in str(error) else 1
            (folder / f"tried-{os.getpid()}").touch()
            deadline = time.monotonic() + 30
            while len(list(folder.glob("tried-*"))) < competitors and time.monotonic() < deadline:
                time.sleep(0.002)
            del kept
            os._exit(code)

        processes = [start_fork(compete) for _ in range(competitors)]
        (folder / "start").touch()
        codes = [wait(process) for process in processes]
    assert set(codes) <= {0, 2}, codes
    return codes.count(0)


@contextmanager
def fork_that_waits(function: Callable[[], object], folder: Path) -> Iterator[int]:
    """A forked process that has run ``function`` and keeps what it opened, until the block ends or it is killed."""
    ready = folder / "fork-is-ready"
    ready.unlink(missing_ok=True)

    def run() -> None:
        kept = function()
        ready.touch()
        time.sleep(120)
        del kept

    process = start_fork(run)
    deadline = time.monotonic() + 30
    while not ready.exists():
        assert time.monotonic() < deadline
        assert os.waitpid(process, os.WNOHANG) == (0, 0), "the fork has ended"
        time.sleep(0.01)
    try:
        yield process
    finally:
        kill(process)


def kill(process: int) -> None:
    """Kill a process with SIGKILL and wait for its end; nothing if it has ended."""
    try:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
