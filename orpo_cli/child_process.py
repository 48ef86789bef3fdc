"""Child process of a command: its output is captured, and it ends with the command, at whatever moment a signal arrives."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from orpo_cli.interruption import uninterrupted


def run_child(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    text: str | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with ``text`` as its standard input.

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
        output, errors = process.communicate(text, timeout)
    except BaseException:
        if process is not None:
            process.kill()
            process.wait()
        raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
