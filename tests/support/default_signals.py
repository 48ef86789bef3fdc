"""Signals as in a process that a terminal starts: a CI service or nohup may have ignored or blocked some, and children inherit that."""

from __future__ import annotations

import signal

NUMBERS = (
    signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
)  # fmt: skip


def restore_default_signals() -> None:
    """Unblock all signals, and set the handlers that Python has at its start."""
    for number in NUMBERS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
