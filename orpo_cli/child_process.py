"""Child process of a command: its output is captured, and it ends with the command, at whatever moment a signal arrives."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from orpo_cli.interruption import uninterrupted

SECONDS_BETWEEN_CALLS = 10  # of `waiting`


def run_child(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    text: str | None = None,
    timeout: float | None = None,
    waiting: Callable[[float], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with ``text`` as its standard input.

    ``waiting``: called every ten seconds while it runs, with the seconds since its start; not together with ``timeout``.

    subprocess.run leaves the program running where a signal arrives after its start and before Popen returns.
    """
    process: subprocess.Popen[str] | None = None
    try:
        with uninterrupted():
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if text is None else subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
            )  # fmt: skip
        if waiting is None:
            output, errors = process.communicate(text, timeout)
        else:
            output, errors = _communicate(process, text, waiting)
    except BaseException:
        if process is not None:
            process.kill()
            process.wait()
        raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _communicate(process: subprocess.Popen[str], text: str | None, waiting: Callable[[float], None]) -> tuple[str, str]:
    started = time.monotonic()
    while True:
        try:
            return process.communicate(text, SECONDS_BETWEEN_CALLS)
        except subprocess.TimeoutExpired:
            text = None  # it is being sent
            waiting(time.monotonic() - started)
