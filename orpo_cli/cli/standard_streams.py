"""Standard streams that never end a command: what cannot be written is dropped, and the first error is kept.

A pipe loses its reader, a terminal goes away, the disk of a redirection is full, the caller closed a stream. Without this,
each ``print`` of this program or of a library could end a run, also one in another thread, and Python's own flush at the end
changes the exit code.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any, TextIO

_CLOSED = OSError(errno.EBADF, "it is closed")


class _OutputFile(io.FileIO):
    """Descriptor of an output stream. ``error``: the first error of a write; ``lost``: what could not be written to standard output.

    ``is_closed``: the caller closed the stream, and the descriptor is the null device.
    """

    error: OSError | None = None
    lost = b""
    is_closed = False

    def write(self, data: Any) -> int:
        """Write all of ``data``, also where another program has made the pipe or terminal non-blocking."""
        rest = memoryview(data).cast("B")
        if self.is_closed:
            self.error = _CLOSED
        try:
            while rest:
                written = super().write(rest)
                if written is None:  # it is full
                    select.select([], [self], [])
                rest = rest[written or 0 :]
        except OSError as error:
            self.error = self.error or error
            if self.fileno() == 1:
                self.lost += rest
        return memoryview(data).nbytes


def protect_standard_streams() -> None:
    """Replace the standard streams of this process, unless another program, such as pytest, has replaced them already.

    Descriptors that the caller closed are opened on the null device, so that no data file gets their numbers.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number is this one
    if sys.stdin is None:  # None: closed by the caller
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115  for the life of the process
    elif isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # as in arguments: whoever uses the text checks it
    if sys.stdout is sys.__stdout__:
        sys.stdout = _protect(sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _protect(sys.stderr, 2)


def _protect(stream: TextIO | None, descriptor: int) -> TextIO:
    """The same stream without errors: of a write, or of a character that its encoding does not have."""
    if stream is None:
        descriptor = os.open(os.devnull, os.O_WRONLY)
    raw = _OutputFile(descriptor, "w", closefd=False)
    raw.is_closed = stream is None
    return io.TextIOWrapper(
        raw,  # without a buffer, whose lock a signal handler that prints could find taken
        encoding="utf-8" if stream is None else stream.encoding,
        errors="backslashreplace",
        line_buffering=descriptor == 2 or raw.isatty() or getattr(stream, "write_through", False),
    )


def output_is_closed() -> bool:
    """Whether the caller closed standard output."""
    raw = getattr(sys.stdout, "buffer", None)
    return isinstance(raw, _OutputFile) and raw.is_closed


def lost_output() -> tuple[OSError | None, str]:
    """(error, text) of the part of standard output that was lost; no error for a closed pipe, whose reader needs no more."""
    sys.stdout.flush()
    raw = getattr(sys.stdout, "buffer", None)
    if not isinstance(raw, _OutputFile) or isinstance(raw.error, BrokenPipeError):
        return None, ""
    return raw.error, raw.lost.decode(errors="replace")
