"""Log of an attempt to train: every line of the console, records of the libraries and tracebacks, each with its time.

It is written to the run directory whatever becomes of the terminal. A process has one, because the libraries' logging and the
exception hook are those of the process.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import traceback
import warnings
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any

from orpo_cli.control_characters import escape_controls
from orpo_cli.redaction import redact
from orpo_cli.run_attempts import now

PACKAGE = Path(__file__).parent
MAX_WAITING_LINES = 10_000  # a command other than `orpo train` opens no log


class RunLog:
    """Log of this process. Lines wait in memory until the run directory exists, and while its disk has no space."""

    def __init__(self) -> None:
        self._file: io.FileIO | None = None
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING_LINES)
        self._lock = threading.RLock()  # reentrant: a signal handler may write while its thread is writing

    def open(self, path: Path) -> None:
        """Write to ``path`` from now on, first the lines that wait. A log that cannot be created does not end the run."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = io.FileIO(path, "a")
        except OSError as error:
            print(f"warning: the log {path} cannot be written: {error.strerror or error}", file=sys.stderr)
            return
        with self._lock:
            self._file = file
            self._write_waiting()

    def discard(self) -> None:
        """Close the log and forget the lines that wait: another command begins in this process, as in a test."""
        if self._file is not None:
            self._file.close()
        self._file = None
        self._waiting.clear()

    def write(self, text: str) -> None:
        """Add a text without secrets; each of its lines gets the time."""
        at = now()
        with self._lock:
            for line in text.splitlines():
                self._waiting.append(f"{at} {line}\n".encode(errors="backslashreplace"))
            self._write_waiting()

    def renew_lock(self) -> None:
        """Replace the lock in a forked process: a thread that the process does not have may hold it forever."""
        self._lock = threading.RLock()

    def _write_waiting(self) -> None:
        while self._waiting and self._file is not None:
            line = self._waiting.popleft()
            try:
                rest = line[self._file.write(line) or 0 :]
            except OSError:
                rest = line
            if rest:  # the disk is full: the next line tries again
                self._waiting.appendleft(rest)
                return


run_log = RunLog()
os.register_at_fork(after_in_child=run_log.renew_lock)


def log_library_messages() -> None:
    """From now on, log records and warnings of the libraries are redacted, and also written to the log of the run."""
    logging.setLogRecordFactory(_RedactedRecord)
    warnings.showwarning = _show_warning


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Exception hook (``sys.excepthook``) that prints and logs the traceback without secrets."""
    text = _clean("".join(traceback.format_exception(kind, error, trace)))
    print(text, end="", file=sys.stderr)
    run_log.write(text)


def _clean(text: str) -> str:
    return escape_controls(redact(text))


class _RedactedRecord(logging.LogRecord):
    """Log record without secrets. Every record is made here, also of a logger whose handlers nobody else can reach."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        try:
            self.msg, self.args = _clean(self.getMessage()), None
        except Exception:  # arguments that do not fit or have no text: logging reports them with the record
            return
        if self.exc_info and self.exc_info[1] is not None:
            self.exc_text = _clean("".join(traceback.format_exception(self.exc_info[1])).rstrip())
        if self.msg:
            run_log.write("\n".join(filter(None, [f"{self.name} {self.levelname}: {self.msg}", self.exc_text])))


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    if category is UserWarning and Path(filename).is_relative_to(PACKAGE):
        text = _clean(f"warning: {message}\n")
    else:
        text = _clean(warnings.formatwarning(message, category, filename, lineno, line))
    run_log.write(text)
    print(text, end="", file=file or sys.stderr)
