"""Interruption of a command by a signal: SIGINT (Ctrl-C), SIGTERM, SIGHUP, and SIGUSR1 and SIGUSR2 of job schedulers.

What the first signal does depends on what the command is doing:

* While it is imported, and when it has ended, there is nothing to clean up: the process exits.
* Usually KeyboardInterrupt is raised in the main thread, so that ``finally`` blocks remove what is incomplete.
* Inside ``until_complete`` nothing is raised: the code there asks ``cause()`` and stops where its work is complete.

A second SIGINT raises KeyboardInterrupt everywhere except inside ``uninterrupted``, which is for short changes of files that
belong together. Another second signal never cuts a save short. A signal that was ignored at the start, as SIGHUP under
nohup, stays ignored.

Only the standard library is imported, because the handlers are installed before anything else is imported.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

EXIT_CODE = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# A library may have caught the exception of the first signal; until then the command has time to remove incomplete files.
REPEAT_AFTER_SECONDS = 10.0

Note = Callable[[str], None]


class _State:
    """What the handler needs to know; only the main thread changes it."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.installed = False  # whether the handlers are; without them, as in a test, contexts work all the same
        self.exit_code: int | None = EXIT_CODE  # None while a command runs
        self.ended = False
        self.cause: str | None = None
        self.raised_for = 0  # the signal that raised KeyboardInterrupt last
        self.first_at = 0.0
        self.note: Note | None = None  # inside `until_complete`
        self.uninterrupted = 0  # nested contexts
        self.caught: list[signal.Signals] = []
        self.waiting: list[int] = []  # signals that arrived inside `uninterrupted`


_state: _State | None = None


def install() -> Callable[[], None]:
    """Install the handlers, and return a function that restores those from before.

    Does nothing where they are installed already, and in another thread than the main one, which cannot install handlers.
    """
    global _state
    installed = _state and _state.installed and _state.process == os.getpid()
    if installed or threading.current_thread() is not threading.main_thread():
        return lambda: None
    _state = _State()
    _state.installed = True
    before = {number: signal.getsignal(number) for number in SIGNALS}
    caught = _state.caught = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in caught:
        signal.signal(number, _handle)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    show_unraisable, sys.unraisablehook = sys.unraisablehook, _handle_unraisable

    def restore() -> None:
        global _state
        sys.unraisablehook = show_unraisable
        for number in caught:
            signal.signal(number, before[number])
        _state = None

    return restore


def hold_for_exec() -> None:
    """Let signals wait in the kernel until the program that replaces this process has installed its handlers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def command_started() -> None:
    """From now on signals do not exit at once: the command may have files to clean up."""
    if _state:
        _state.exit_code = None


def command_ended(exit_code: int) -> None:
    """From now on signals change nothing, except that SIGINT does not wait for threads of libraries."""
    if _state:
        _state.exit_code, _state.ended = exit_code, True
        for number in _state.caught:
            if number != signal.SIGINT:  # Python resets a handler before the process ends, but not this one
                signal.signal(number, signal.SIG_IGN)
        if "multiprocessing" in sys.modules:
            _kill_workers()


def ignore() -> None:
    """In a worker process: leave signals, which a terminal or a scheduler sends to all processes, to the parent."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _kill_workers() -> None:
    """Kill worker processes that an interrupted library has left: Python would wait for them, and they ignore signals."""
    workers = sys.modules["multiprocessing"].active_children()
    if workers:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch raises an error where a worker is killed
        for worker in workers:
            worker.kill()


def cause() -> str | None:
    """Why the command has to stop: the name of the first signal, or what was passed to ``request``; None if it need not."""
    return _state.cause if _state else None


def was_raised() -> bool:
    """Whether a signal has raised KeyboardInterrupt, which a library may have caught or converted."""
    return bool(_state and _state.raised_for)


def forget() -> None:
    """Forget a request: the command goes on."""
    if _state:
        _state.cause, _state.raised_for = None, 0


def continue_after_ctrl_c() -> None:
    """In the handler of a KeyboardInterrupt that ends less than the command. Raises it again where it is not from Ctrl-C."""
    if cause() not in (None, signal.SIGINT.name):
        raise KeyboardInterrupt
    forget()


def interrupted() -> str:
    """The beginning of messages: ``interrupted (SIGTERM)``."""
    return f"interrupted ({cause()})" if cause() else "interrupted"


def request(reason: str) -> None:
    """Stop the command as a signal does, for another reason."""
    global _state
    _state = _state or _State()
    _state.cause = _state.cause or reason


def raise_if_requested() -> None:
    """Raise KeyboardInterrupt if a signal has arrived; also one whose exception a library has caught."""
    if cause():
        raise KeyboardInterrupt


@contextmanager
def until_complete(note: Note) -> Iterator[None]:
    """Context that the first signal does not interrupt: its code stops where its work is complete, because of ``cause()``.

    ``note`` gets the name of the signal, in another thread, because the interrupted code may hold the lock of the stream.
    A signal that the code has not seen raises KeyboardInterrupt at the end.
    """
    global _state
    raise_if_requested()
    _state = _state or _State()
    outer, _state.note = _state.note, note
    try:
        yield
    finally:
        _state.note = outer
    if outer is None:
        raise_if_requested()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Context in which all signals wait until its end, also a second SIGINT; for changes that take milliseconds."""
    global _state
    state = _state = _state or _State()
    state.uninterrupted += 1
    try:
        yield
    finally:
        state.uninterrupted -= 1
        if not state.uninterrupted:
            waiting, state.waiting = state.waiting, []
            for number in waiting:
                _handle(number, None)


def _handle(number: int, _frame: FrameType | None) -> None:
    state, name = _state, signal.Signals(number).name
    if state is None:
        return
    if state.process != os.getpid():
        _handle_in_forked_process(number)
    elif state.exit_code is not None:
        _handle_outside_command(number, state)
    elif state.uninterrupted:
        state.waiting.append(number)
    elif state.cause is None:
        state.cause, state.first_at = name, time.monotonic()
        if state.note is None:
            _raise(state, number)
        else:
            _show_in_thread(state.note, name)
    elif number == signal.SIGINT or (state.note is None and time.monotonic() - state.first_at > REPEAT_AFTER_SECONDS):
        _raise(state, number)


def _raise(state: _State, number: int) -> None:
    state.raised_for = number
    raise KeyboardInterrupt


def _handle_unraisable(error: sys.UnraisableHookArgs) -> None:
    """Send the signal again where its exception was lost in a finalizer or a callback, which Python cannot leave by it."""
    state = _state
    if state is None or not isinstance(error.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(error)
        return

    def send_again() -> None:
        time.sleep(0.01)  # until the finalizer has ended
        os.kill(state.process, state.raised_for)

    state.first_at = float("-inf")  # not as a second signal, which would be ignored
    with suppress(RuntimeError):
        start_new_thread(send_again, ())


def _show_in_thread(note: Note, name: str) -> None:
    def show() -> None:
        with suppress(Exception):  # a closed stream; a thread has nobody to tell
            note(name)

    with suppress(RuntimeError):  # no thread can be started
        start_new_thread(show, ())


def _handle_outside_command(number: int, state: _State) -> None:
    if not state.ended:
        with suppress(OSError):
            os.write(2, f"interrupted ({signal.Signals(number).name}) before the command started.\n".encode())
    if not state.ended or number == signal.SIGINT:
        os._exit(state.exit_code or 0)


def _handle_in_forked_process(number: int) -> None:
    """A worker process of a library, which inherited the handler: Ctrl-C is for its parent, other signals end it."""
    if number != signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
