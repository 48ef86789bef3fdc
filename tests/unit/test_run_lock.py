"""The lock of a run directory: one owner, released by the kernel, visible on other machines by its heartbeat."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.file_locks import no_locks
from support.forks import fork_that_waits, kill, race, start_fork, wait

from orpo_cli.errors import UsageError
from orpo_cli.file_lock import try_lock
from orpo_cli.run_lock import HEARTBEAT_FILE, LOCK_FILE, RunLock, RunLost, live_owner

GOING_ON = "a run is going on there"


def acquire(directory: Path, notes: list[str] | None = None) -> RunLock:
    return RunLock.acquire(directory, [].append if notes is None else notes.append, interval=0.1)


def test_a_live_owner_is_named_and_a_killed_one_is_not_in_the_way(tmp_path: Path) -> None:
    with fork_that_waits(lambda: acquire(tmp_path), tmp_path) as process:
        with pytest.raises(UsageError, match=f"{GOING_ON} .process {process} on ") as refused:
            acquire(tmp_path)
        assert "--set output_dir=DIR" in str(refused.value.remedy)
        owner = live_owner(tmp_path)
        assert owner is not None
        assert owner.pid == process
        kill(process)
        assert live_owner(tmp_path) is None
        started = time.monotonic()
        acquire(tmp_path).release()
        assert time.monotonic() - started < 0.2  # nothing is watched


@pytest.mark.parametrize(
    "worker",
    [lambda: start_fork(lambda: time.sleep(60), outlives_parent=True), lambda: subprocess.Popen(["sleep", "60"]).pid],
)
def test_a_worker_that_outlives_its_parent_does_not_hold_the_lock(tmp_path: Path, worker: Any) -> None:
    def own() -> RunLock:
        lock = acquire(tmp_path)
        (tmp_path / "worker").write_text(str(worker()))
        return lock

    with fork_that_waits(own, tmp_path) as process:
        kill(process)
        number = int((tmp_path / "worker").read_text())
        os.kill(number, 0)  # it lives
        acquire(tmp_path).release()
        os.kill(number, 9)


def test_a_released_lock_leaves_no_heartbeat_and_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(3):
        lock = acquire(tmp_path)
        assert (tmp_path / HEARTBEAT_FILE).is_file()
        lock.release()
        lock.release()
        assert {path.name for path in tmp_path.iterdir()} == {LOCK_FILE}


def heartbeat_of_another_machine(directory: Path, count: int) -> None:
    values = {"host": "node7", "boot_id": "of another machine", "pid": os.getpid(), "since": "today", "count": count}
    (directory / HEARTBEAT_FILE).write_text(json.dumps(values))


def test_an_owner_on_another_machine_is_seen_by_its_heartbeat(tmp_path: Path) -> None:
    """A machine that shares the disk and not the locks: a process that only renews the heartbeat."""

    def renew() -> None:
        for count in range(10_000):
            heartbeat_of_another_machine(tmp_path, count)
            time.sleep(0.1)

    process = start_fork(renew)
    try:
        while not (tmp_path / HEARTBEAT_FILE).exists():
            time.sleep(0.01)
        with pytest.raises(UsageError, match=f"{GOING_ON} .process {process} on node7"):
            acquire(tmp_path)
        owner = live_owner(tmp_path, interval=0.1)
        assert owner is not None
        assert owner.host == "node7"
    finally:
        kill(process)
    notes: list[str] = []
    assert live_owner(tmp_path, interval=0.1) is None
    acquire(tmp_path, notes).release()
    assert len(notes) == 1
    assert "node7" in notes[0]


def test_a_heartbeat_that_cannot_be_read_counts_as_that_of_another_machine(tmp_path: Path) -> None:
    for content in (b"", b"\xff\xfe", b"{}", b"[1]", b'{"host": 1, "boot_id": null, "pid": "x", "since": 3}'):
        (tmp_path / HEARTBEAT_FILE).write_bytes(content)
        notes: list[str] = []
        acquire(tmp_path, notes).release()
        assert len(notes) == 1


def test_the_heartbeat_changes_while_the_lock_is_held(tmp_path: Path) -> None:
    lock = acquire(tmp_path)
    contents = set()
    deadline = time.monotonic() + 20
    while len(contents) < 3:
        assert time.monotonic() < deadline
        contents.add((tmp_path / HEARTBEAT_FILE).read_bytes())
        time.sleep(0.02)
    lock.release()


def test_without_file_locks_the_heartbeat_protects_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", no_locks)
    notes: list[str] = []
    lock = acquire(tmp_path, notes)
    assert "no file locks" in notes[0]
    with pytest.raises(UsageError, match=GOING_ON):
        acquire(tmp_path)
    lock.release()
    acquire(tmp_path).release()
    with fork_that_waits(lambda: acquire(tmp_path), tmp_path) as process, pytest.raises(UsageError, match=GOING_ON):
        acquire(tmp_path)
    assert process
    acquire(tmp_path).release()  # its process was killed


@pytest.mark.parametrize("ended", [False, True], ids=["a new owner", "a new owner that has ended"])
def test_an_owner_that_was_suspended_notices_that_it_has_lost_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """Without file locks, as between two machines; the new owner's heartbeat is not changed."""
    monkeypatch.setattr(fcntl, "flock", no_locks)

    def own() -> None:
        lock = acquire(tmp_path)
        lock.check()
        (tmp_path / "owned").touch()
        deadline = time.monotonic() + 30
        while not (tmp_path / "taken").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)  # three intervals, in which it would renew the heartbeat
        try:
            lock.check()
        except RunLost as error:
            (tmp_path / "lost").write_text(str(error))
        lock.release()

    process = start_fork(own)
    while not (tmp_path / "owned").exists():
        time.sleep(0.01)
    os.kill(process, signal.SIGSTOP)
    lock = acquire(tmp_path)
    if ended:
        lock.release()
    (tmp_path / "taken").touch()
    os.kill(process, signal.SIGCONT)
    assert wait(process) == 0
    owner = "another process" if ended else f"process {os.getpid()} on "
    assert f"{tmp_path}: {owner}" in (tmp_path / "lost").read_text()
    if not ended:
        lock.check()
        lock.release()


def test_a_directory_that_was_removed_has_no_new_owner(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    lock = acquire(run)
    shutil.rmtree(run)
    lock.check()
    lock.release()


def test_an_owner_that_has_no_heartbeat_yet_is_named_by_its_lock(tmp_path: Path) -> None:
    with fork_that_waits(lambda: acquire(tmp_path), tmp_path) as process:
        (tmp_path / HEARTBEAT_FILE).unlink()
        with pytest.raises(UsageError, match=rf"{GOING_ON} \(process {process}\)"):
            acquire(tmp_path)
        assert getattr(live_owner(tmp_path), "pid", None) == process


def test_a_directory_that_is_replaced_is_locked_at_its_path(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with fork_that_waits(lambda: acquire(run), tmp_path):
        run.rename(tmp_path / "moved")
        run.mkdir()
        acquire(run).release()
        with pytest.raises(UsageError, match=GOING_ON):
            acquire(tmp_path / "moved")


@pytest.mark.parametrize("dead", [False, True], ids=["no owner before", "a dead owner before"])
def test_of_many_at_once_exactly_one_owns(tmp_path: Path, dead: bool) -> None:
    for number in range(15):
        run = tmp_path / str(number)
        run.mkdir()
        if dead:
            heartbeat_of_another_machine(run, 0)
        assert race(partial(acquire, run)) == 1


@contextmanager
def no_space() -> Iterator[None]:
    """No file of this process may become longer, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_keeps_no_lock_and_no_heartbeat(tmp_path: Path) -> None:
    with no_space(), pytest.raises(OSError, match="File too large"):
        acquire(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]
    acquire(tmp_path).release()


def test_a_lock_file_whose_owner_cannot_be_written_is_locked(tmp_path: Path) -> None:
    with no_space():
        lock = try_lock(tmp_path / "lock")
    assert lock is not None
    assert try_lock(tmp_path / "lock") is None
    lock.release()
    assert try_lock(tmp_path / "lock") is not None
