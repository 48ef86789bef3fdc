"""Commands whose standard streams are closed or broken, in processes of their own."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

StreamFault = Literal["closed", "full", "broken", "hung up"]
STREAM_FAULTS: tuple[StreamFault, ...] = ("closed", "full", "broken", "hung up")


@contextmanager
def faulty_stream(fault: StreamFault) -> Iterator[int | None]:
    """The descriptor of an output stream with ``fault``; None where the process gets none."""
    if fault == "closed":
        yield None
        return
    if fault == "full":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    elif fault == "broken":  # a pipe without a reader: EPIPE
        reader, descriptor = os.pipe()
        os.close(reader)
    else:  # a terminal that went away: EIO
        terminal, descriptor = pty.openpty()
        os.close(terminal)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def run_with_faults(
    arguments: Sequence[str | Path],
    *,
    stdin: StreamFault | None = None,
    stdout: StreamFault | None = None,
    stderr: StreamFault | None = None,
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run ``orpo`` with these faults of its streams; streams without a fault are captured."""
    command = [sys.executable, "-m", "orpo_cli", *map(str, arguments)]
    faults = ((0, stdin), (1, stdout), (2, stderr))
    # the shell closes what the caller of a shell closes with 2>&-
    closed = " ".join(f"{number}>&-" for number, fault in faults if fault == "closed")
    with (
        faulty_stream(stdout or "broken") as out,
        faulty_stream(stderr or "broken") as err,
    ):
        return subprocess.run(
            ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout is None or out is None else out,
            stderr=subprocess.PIPE if stderr is None or err is None else err,
            text=True,
            timeout=timeout,
            check=False,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
        )
