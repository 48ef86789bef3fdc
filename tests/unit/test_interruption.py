"""Handlers of signals: where they raise, where they wait, and that no signal is lost. Real signals to this process."""

# ruff: noqa: PT012  what happens in a block around a signal is what these tests are about

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from orpo_cli import interruption

SIGINT, SIGTERM, SIGHUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


@pytest.fixture(autouse=True)
def command() -> Iterator[None]:
    """Installed handlers, as while a command runs."""
    restore = interruption.install()
    interruption.command_started()
    yield
    restore()


def send(*numbers: int) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


def test_the_first_signal_raises_and_a_second_one_does_not_disturb_the_cleaning() -> None:
    cleaned = False
    with pytest.raises(KeyboardInterrupt):
        try:
            send(SIGTERM)
        finally:
            send(SIGTERM, SIGHUP)
            cleaned = True
    assert cleaned
    assert interruption.cause() == "SIGTERM"


def test_a_second_ctrl_c_raises_also_while_cleaning() -> None:
    with pytest.raises(KeyboardInterrupt):
        send(SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        send(SIGINT)


def test_a_signal_whose_exception_a_library_caught_is_raised_at_the_next_check() -> None:
    with suppress(BaseException):
        send(SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        interruption.raise_if_requested()


def test_a_signal_inside_a_finalizer_is_raised_after_it(capfd: pytest.CaptureFixture[str]) -> None:
    class Finalized:
        def __del__(self) -> None:
            send(SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        Finalized()
        for _ in range(1000):
            time.sleep(0.001)
    assert capfd.readouterr().err == ""


def test_until_complete_lets_work_end_and_raises_what_it_has_not_seen() -> None:
    notes: list[str] = []
    noted, complete = threading.Event(), False

    def note(name: str) -> None:
        notes.append(name)
        noted.set()

    with pytest.raises(KeyboardInterrupt), interruption.until_complete(note):
        send(SIGHUP, SIGTERM, SIGTERM)
        assert interruption.cause() == "SIGHUP"
        assert noted.wait(10)
        complete = True
    assert complete
    assert notes == ["SIGHUP"]


def test_a_second_ctrl_c_leaves_until_complete() -> None:
    reached = False
    with pytest.raises(KeyboardInterrupt), interruption.until_complete(lambda name: None):
        send(SIGINT)
        send(SIGINT)
        reached = True
    assert not reached


def test_uninterrupted_holds_every_signal_until_its_end() -> None:
    complete = False
    with pytest.raises(KeyboardInterrupt), interruption.uninterrupted():
        with interruption.uninterrupted():
            send(SIGINT, SIGINT, SIGTERM)
        complete = True
    assert complete


def test_a_note_that_fails_is_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    called = threading.Event()

    def fail(name: str) -> None:
        called.set()
        raise OSError("the stream is closed")

    with pytest.raises(KeyboardInterrupt), interruption.until_complete(fail):
        send(SIGTERM)
        assert called.wait(10)
    assert capfd.readouterr().err == ""


def test_ctrl_c_in_a_conversation_is_forgotten_and_another_signal_is_not() -> None:
    with pytest.raises(KeyboardInterrupt):
        send(SIGINT)
    interruption.continue_after_ctrl_c()
    assert interruption.cause() is None
    with pytest.raises(KeyboardInterrupt):
        send(SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        interruption.continue_after_ctrl_c()


def test_after_the_command_a_signal_changes_nothing() -> None:
    interruption.command_ended(0)
    send(SIGTERM, SIGHUP)
    assert interruption.cause() is None


def test_a_forked_worker_leaves_ctrl_c_to_its_parent_and_is_ended_by_sigterm() -> None:
    process = os.fork()
    if process == 0:
        try:
            send(SIGINT)
            send(SIGTERM)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -SIGTERM


def test_handlers_are_restored_and_an_ignored_signal_is_never_handled() -> None:
    interruption._state = None
    signal.signal(SIGHUP, signal.SIG_IGN)
    try:
        restore = interruption.install()
        assert signal.getsignal(SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(SIGTERM) == interruption._handle
        restore()
    finally:
        signal.signal(SIGHUP, signal.SIG_DFL)
