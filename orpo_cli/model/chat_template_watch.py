"""Watch of a chat template's rendering: a second thread ends one that takes too long or fills the memory.

A thread cannot be stopped from outside while it is in C: ``chat_template_limits`` checks what makes a large value at once.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo_cli.errors import DataError

MAX_CPU_SECONDS = 20.0  # of one rendering; a template of 200 lines takes less than a millisecond per message
MAX_MEMORY_BYTES = 2_000_000_000  # growth of the process during one rendering
_CHECK_SECONDS = 0.1
_IDLE_SECONDS = 5.0
_REPEAT_SECONDS = 1.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ChatTemplateLimit(DataError):
    """A chat template exceeds one of the limits; ``stopped`` by the thread that watches it."""

    line: int | None = None

    def __init__(self, reason: str, *, stopped: bool = False) -> None:
        super().__init__(reason)
        self.stopped = stopped


class _Stopped(BaseException):
    """Raised in the thread of a rendering by the thread that watches it."""


@dataclass
class _Rendering:
    """A rendering that is watched; the first check sets its clock. ``reason``: why it was stopped."""

    clock: int | None = None  # of the CPU time of its thread, where the system has one
    started: float | None = None
    memory: int = 0
    reason: str = ""
    stopped_at: float = 0.0

    def seconds(self) -> float:
        """Seconds on the clock."""
        return time.monotonic() if self.clock is None else time.clock_gettime(self.clock)


_lock = threading.Lock()
_renderings: dict[int, _Rendering] = {}  # by thread
_watcher: threading.Thread | None = None


def _forget_renderings() -> None:
    """In a forked process: a thread that it does not have may hold the lock, and its renderings are not here."""
    global _lock, _watcher
    _lock, _watcher = threading.Lock(), None
    for thread in [each for each in _renderings if each != threading.get_ident()]:
        del _renderings[thread]


os.register_at_fork(after_in_child=_forget_renderings)


def watched(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call ``function`` and end it where it exceeds the limits of time or memory. Raises ChatTemplateLimit."""
    thread = threading.get_ident()
    if thread in _renderings:
        return function(*args, **kwargs)
    rendering = _Rendering()
    try:
        try:
            with _lock:
                _renderings[thread] = rendering
                _start_watcher()
            return function(*args, **kwargs)
        finally:
            _end_watch(thread, rendering)
    except _Stopped as error:
        _end_watch(thread, rendering)
        raise ChatTemplateLimit(rendering.reason, stopped=True).with_traceback(error.__traceback__) from None


def _end_watch(thread: int, rendering: _Rendering) -> None:
    with _lock:
        _renderings.pop(thread, None)
        if rendering.reason:  # not raised yet, if the rendering ended at the same moment
            _raise_pending(thread)


def _raise_pending(thread: int) -> None:
    """Let the exception that may be pending for this thread be raised here, and catch it.

    PyThreadState_SetAsyncExc can also withdraw it. But the interpreter of Python 3.11 then checks for it forever, which makes
    all code slower, and a profiled function may never end.
    """
    with suppress(_Stopped):
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_Stopped))
        while True:  # the interpreter looks for exceptions before each repetition
            pass


def _start_watcher() -> None:
    global _watcher
    if _watcher is None or not _watcher.is_alive():
        _watcher = threading.Thread(target=_watch, name="chat-template-limits", daemon=True)
        _watcher.start()


def _watch() -> None:
    """Stop renderings that exceed a limit, until there was none for some seconds."""
    global _watcher
    last_active = time.monotonic()
    while True:
        time.sleep(_CHECK_SECONDS)
        now = time.monotonic()
        with _lock:
            for thread, rendering in _renderings.items():
                last_active = now
                rendering.reason = rendering.reason or _exceeded(thread, rendering)
                if rendering.reason and now - rendering.stopped_at > _REPEAT_SECONDS:
                    rendering.stopped_at = now  # repeated, since an exception in a destructor is ignored
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_Stopped))
            if now - last_active > _IDLE_SECONDS:
                _watcher = None
                return


def _exceeded(thread: int, rendering: _Rendering) -> str:
    memory = _memory_bytes()
    if rendering.started is None:
        rendering.clock = time.pthread_getcpuclockid(thread) if hasattr(time, "pthread_getcpuclockid") else None
        rendering.started, rendering.memory = rendering.seconds(), memory
    if rendering.seconds() - rendering.started > MAX_CPU_SECONDS:
        return f"it takes longer than {MAX_CPU_SECONDS:g} s"
    too_much = memory - rendering.memory > MAX_MEMORY_BYTES
    return f"it needs more than {MAX_MEMORY_BYTES // 10**9} GB of memory" if too_much else ""


def _memory_bytes() -> int:
    """Memory of this process; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0
