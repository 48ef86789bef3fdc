"""Commands in forks of the test process, which has the libraries loaded, so that a command starts in milliseconds.

A fork can stop at a point of the code, tell the test so, and go on when the test says so; it then has real signals sent to it
at a known point.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.forks import SECONDS, end_session, start_fork, wait_with_usage


@dataclass(frozen=True)
class StopPoint:
    """Where a command stops until the test continues: before call number ``call`` of a function, or after it.

    ``function`` is ``module:name`` or ``module:Class.name``: the name as its caller looks it up.
    """

    function: str
    call: int = 1
    after: bool = False

    def install(self, folder: Path) -> None:
        """In the fork: replace the function by one that stops there and does the same."""
        module, _, name = self.function.partition(":")
        *outer, name = name.split(".")
        owner: Any = importlib.import_module(module)
        for each in outer:
            owner = getattr(owner, each)
        original, calls = getattr(owner, name), 0

        def stopping(*arguments: Any, **keywords: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == self.call and not self.after:
                _stop(folder)
            result = original(*arguments, **keywords)
            if calls == self.call and self.after:
                _stop(folder)
            return result

        setattr(owner, name, stopping)


def _stop(folder: Path) -> None:
    (folder / "reached").touch()
    until = time.monotonic() + SECONDS
    while not (folder / "continue").exists() and time.monotonic() < until:
        time.sleep(0.005)


class ForkedCommand:
    """A running command. ``folder`` gets its output and the files with which the test and the fork talk."""

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str | Path],
        *,
        stop: StopPoint | None = None,
        ignored: Sequence[signal.Signals] = (),
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("reached", "continue"):
            (folder / name).unlink(missing_ok=True)
        self.peak_bytes = 0
        self.process = start_fork(lambda: self._run([str(each) for each in arguments], stop, ignored, before))

    def _run(
        self,
        arguments: list[str],
        stop: StopPoint | None,
        ignored: Sequence[signal.Signals],
        before: Callable[[], None],
    ) -> None:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        for stream, path in ((0, Path(os.devnull)), (1, self.folder / "stdout"), (2, self.folder / "stderr")):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644), stream)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout, sys.stderr = (open(number, "w", closefd=False, buffering=1) for number in (1, 2))  # noqa: SIM115
        faulthandler.enable()
        import torch

        torch.set_num_threads(1)  # a fork has no copies of the other threads
        sys.argv = ["orpo", *arguments]
        before()
        if stop is not None:
            stop.install(self.folder)
        code: object = 1
        try:
            from orpo_cli.__main__ import main

            main()
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        with suppress(Exception):
            sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 1)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for the condition; fails where the command ends before."""
        until = time.monotonic() + SECONDS
        while not condition():
            assert os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None, self.stderr
            if time.monotonic() > until:
                end_session(self.process)
                raise AssertionError(f"not reached: {self.stderr}")
            time.sleep(0.005)

    def wait_for_stop(self) -> None:
        """Wait until the command is at its stop point."""
        self.wait_until((self.folder / "reached").exists)

    def send(self, *numbers: signal.Signals) -> None:
        """Send signals, each when the one before it has been handled."""
        for number in numbers:
            os.kill(self.process, number)
            time.sleep(0.05)

    def go_on(self) -> None:
        """Let the command continue from its stop point."""
        (self.folder / "continue").touch()

    def wait(self, seconds: float = SECONDS) -> int:
        """The exit code; a negative signal where the process was killed."""
        try:
            code, usage = wait_with_usage(self.process, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.stderr}") from error
        self.peak_bytes = usage.ru_maxrss * 1024
        return code

    @property
    def stdout(self) -> str:
        """The standard output so far."""
        return (self.folder / "stdout").read_text(encoding="utf-8", errors="backslashreplace")

    @property
    def stderr(self) -> str:
        """The standard error so far."""
        return (self.folder / "stderr").read_text(encoding="utf-8", errors="backslashreplace")


def run_here(*arguments: str | Path) -> int:
    """Run a command in this process, which loads what its forks need; the exit code."""
    import torch

    from orpo_cli.cli.main import main

    before, sys.argv = sys.argv, ["orpo", *map(str, arguments)]
    torch.set_num_threads(1)  # a fork has no copies of the other threads
    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.argv = before
    return 0


def interrupt_at(
    folder: Path, arguments: Sequence[str | Path], stop: StopPoint, *numbers: signal.Signals
) -> tuple[int, str]:
    """Run a command, send it the signals at the stop point, let it go on; its exit code and standard error."""
    command = ForkedCommand(folder, arguments, stop=stop)
    command.wait_for_stop()
    command.send(*numbers)
    command.go_on()
    return command.wait(), command.stderr
