"""Forks of the tests: one that hangs fails its test in bounded time, and none survives the tests."""

from __future__ import annotations

import faulthandler
import gc
import os
import time
from pathlib import Path

import psutil
import pytest
from support.forks import kill, start_fork, wait


def is_alive(process: int) -> bool:
    return psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE


def test_a_fork_that_hangs_fails_the_test() -> None:
    def hang() -> None:
        faulthandler.disable()  # it would print where this process is
        time.sleep(600)

    began = time.monotonic()
    with pytest.raises(AssertionError, match="has not ended after 0 s"):
        wait(start_fork(hang), seconds=0.1)
    assert time.monotonic() - began < 5


def test_a_fork_ends_with_its_parent(tmp_path: Path) -> None:
    """Also where the parent is killed, as a test process may be."""

    def start() -> None:
        (tmp_path / "id").write_text(str(start_fork(lambda: time.sleep(600))))
        (tmp_path / "id").rename(tmp_path / "started")
        time.sleep(600)

    parent = start_fork(start)
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    child = int((tmp_path / "started").read_text())
    assert is_alive(child)
    kill(parent)
    deadline = time.monotonic() + 10
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(child)


class OfTestProcess:
    """Object in a cycle, as one that joins its thread when it is collected."""

    def __init__(self) -> None:
        self.cycle, self.process = self, os.getpid()

    def __del__(self) -> None:
        if os.getpid() != self.process:
            os._exit(9)


def test_garbage_of_the_test_process_is_not_collected_in_a_fork() -> None:
    gc.disable()
    try:
        OfTestProcess()
        assert wait(start_fork(gc.collect)) == 0
    finally:
        gc.enable()
