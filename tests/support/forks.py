"""Forked processes that run a function: to kill it at each file operation, or to let several run at once.

Each is the leader of its own session, so that it can be killed with the processes that it starts, and ends with the test process.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from orpo_cli.errors import UsageError
from support.default_signals import restore_default_signals

SECONDS = 120.0  # at most for what takes a second on an idle machine
PR_SET_PDEATHSIG = 1
FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.chmod", "fcntl.flock"}


def start_fork(function: Callable[[], object], *, outlives_parent: bool = False) -> int:
    """The id of a forked process that runs ``function``; it exits with 0, or with 1 where the function raises."""
    parent, process = os.getpid(), os.fork()
    if process:
        return process
    code = 1
    try:
        gc.freeze()  # garbage of the test process may join threads when it is collected, which do not exist here
        os.setsid()
        if not outlives_parent:
            end_with_parent()
            if os.getppid() != parent:
                os._exit(code)
        restore_default_signals()
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a fork has no copies of the threads of tokenizers
        function()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, so that no process of a test outlives the tests."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def wait(process: int, seconds: float = SECONDS) -> int:
    """The exit code of a forked process, or minus the number of the signal that ended it."""
    return wait_with_usage(process, seconds)[0]


def wait_with_usage(process: int, seconds: float = SECONDS) -> tuple[int, resource.struct_rusage]:
    """The exit code, and the resources that the process used. A process that does not end in time is killed: the test fails."""
    deadline = time.monotonic() + seconds
    while True:
        ended, status, usage = os.wait4(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), usage
        if time.monotonic() > deadline:
            _abort(process)
            raise AssertionError(f"process {process} has not ended after {seconds:.0f} s")
        time.sleep(0.003)


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
    try:
        while not ready.exists():
            assert time.monotonic() < deadline
            assert os.waitpid(process, os.WNOHANG) == (0, 0), "the fork has ended"
            time.sleep(0.01)
        yield process
    finally:
        end_session(process)


def kill(process: int) -> None:
    """Kill a process with SIGKILL and wait for its end; nothing if it has ended."""
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def end_session(process: int) -> None:
    """Kill a fork and the processes that it has started."""
    with suppress(ProcessLookupError):  # also where the fork has not yet called setsid
        os.killpg(process, signal.SIGKILL)
    kill(process)


def _abort(process: int) -> None:
    """End a fork that hangs; where faulthandler is enabled, it prints where."""
    os.kill(process, signal.SIGABRT)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.01)
    end_session(process)
