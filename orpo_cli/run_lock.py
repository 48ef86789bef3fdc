"""Lock of a run directory: one process owns a run, also where machines share a disk.

``.lock`` is locked with flock, which the kernel releases when its process ends, in whatever way. ``.heartbeat`` names the owner and
has a counter that a thread of the owner increments. A machine that cannot see the lock of another one, as on some network
file systems, watches the counter. Process ids are only shown: they are reused, and differ between containers.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from orpo_cli.errors import UsageError

LOCK_FILE, HEARTBEAT_FILE = ".lock", ".heartbeat"
HEARTBEAT_SECONDS = 5.0  # three intervals without a change mean that the owner is dead
_PROBE_SECONDS = 0.3  # `live_owner` of another process holds the lock for less
_NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


@dataclass(frozen=True)
class Owner:
    """Process that trains a run, as its heartbeat names it."""

    host: str = "an unknown host"
    boot_id: str = ""
    pid: int = 0
    since: str = "?"

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}" if self.pid else "another process"


def active_run_error(directory: Path, owner: Owner) -> UsageError:
    """The error of a command that would train in a run that another process trains."""
    return UsageError(
        f"output_dir {directory}: a run is going on there ({owner}).",
        remedy="Wait for it, or use another directory (--set output_dir=DIR).",
    )


class RunLock:
    """Lock of one run directory, from ``acquire`` to ``release`` or the end of the process."""

    def __init__(self, directory: Path, descriptor: int, interval: float = HEARTBEAT_SECONDS) -> None:
        self.directory = directory
        self._descriptor: int | None = descriptor
        self._interval = interval
        self._token = uuid.uuid4().hex
        self._owner = Owner(platform.node(), boot_id(), os.getpid(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="run heartbeat", daemon=True)

    @classmethod
    def acquire(cls, directory: Path, note: Callable[[str], None], *, interval: float = HEARTBEAT_SECONDS) -> RunLock:
        """Lock ``directory``, which exists.

        Raises UsageError where another process owns it, OSError where the files of the lock cannot be written.
        """
        descriptor, locked = _lock_file(directory)
        lock = cls(directory, descriptor, interval)
        try:
            if not locked:
                note(f"{directory}: this file system has no file locks; only the heartbeat protects the run")
            lock._claim_heartbeat(note, locked)
        except BaseException:
            os.close(descriptor)
            raise
        _held.add(lock)
        lock._thread.start()
        return lock

    def release(self) -> None:
        """Let other processes own the directory. Does nothing in a forked process, or the second time."""
        if self._descriptor is None:
            return
        self._stop.set()
        self._thread.join(timeout=self._interval)
        if self._is_own(_read_heartbeat(self.directory)):
            (self.directory / HEARTBEAT_FILE).unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None

    def _claim_heartbeat(self, note: Callable[[str], None], locked: bool) -> None:
        """Create the heartbeat, which another process cannot do at the same time; take over that of a dead owner."""
        path = self.directory / HEARTBEAT_FILE
        before = _read_heartbeat(self.directory)
        if before is not None:
            owner = _parse(before)
            if not (locked and owner.boot_id == boot_id()):
                note(f"{self.directory}: checking whether {owner} still trains there, {3 * self._interval:.0f} s")
                if _changes(self.directory, before, self._interval):
                    raise active_run_error(self.directory, owner)
            taken = path.with_name(f"{HEARTBEAT_FILE}.{self._token}")
            path.rename(taken)
            if taken.read_bytes() != before:  # another process was faster
                taken.rename(path)
                raise active_run_error(self.directory, owner)
            taken.unlink()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            raise active_run_error(self.directory, _parse(_read_heartbeat(self.directory))) from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(self._content(0))

    def _renew(self) -> None:
        """Increment the counter, in place: opening and closing the file makes the change visible over NFS."""
        count = 0
        while not self._stop.wait(self._interval):
            count += 1
            try:
                if not self._is_own(_read_heartbeat(self.directory)):
                    return
                with (self.directory / HEARTBEAT_FILE).open("r+b") as file:
                    file.write(self._content(count))
            except OSError:  # the disk is away for a moment
                continue

    def _content(self, count: int) -> bytes:
        return json.dumps({**asdict(self._owner), "token": self._token, "count": f"{count:012d}"}).encode() + b"\n"

    def _is_own(self, content: bytes | None) -> bool:
        return content is None or self._token.encode() in content


_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _close_in_fork() -> None:
    """Close the inherited locks: a worker process that outlives its parent must not hold the run."""
    for lock in list(_held):
        if lock._descriptor is not None:
            os.close(lock._descriptor)
            lock._descriptor = None


os.register_at_fork(after_in_child=_close_in_fork)


def live_owner(directory: Path, *, interval: float = HEARTBEAT_SECONDS) -> Owner | None:
    """The process that trains the run now; None where there is none.

    Takes some seconds where the last owner was on another machine and did not end by itself.
    """
    try:
        descriptor = os.open(directory / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # a run of a version without a lock
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        locked = True
    except BlockingIOError:
        return _parse(_read_heartbeat(directory))
    except OSError:
        locked = False
    finally:
        os.close(descriptor)
    before = _read_heartbeat(directory)
    owner = _parse(before)
    if before is None or (locked and owner.boot_id == boot_id()):
        return None
    return owner if _changes(directory, before, interval) else None


def boot_id() -> str:
    """The identity of this boot of this machine: containers of one machine share it, two machines never do."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not Linux
        return f"{platform.node()} {uuid.getnode():x}"


def _lock_file(directory: Path) -> tuple[int, bool]:
    """The descriptor of the lock file, and whether it is locked: some file systems have no locks."""
    path, deadline = directory / LOCK_FILE, time.monotonic() + _PROBE_SECONDS
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                return descriptor, True
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise active_run_error(directory, _parse(_read_heartbeat(directory))) from None
            time.sleep(0.02)
        except OSError as error:
            if error.errno in _NO_FLOCK:
                return descriptor, False
            os.close(descriptor)
            raise
        os.close(descriptor)  # the directory was removed or replaced in the meantime, or is in use: try again


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _read_heartbeat(directory: Path) -> bytes | None:
    try:
        return (directory / HEARTBEAT_FILE).read_bytes()
    except OSError:
        return None


def _parse(content: bytes | None) -> Owner:
    try:
        values = json.loads(content or b"")
        return Owner(str(values["host"]), str(values["boot_id"]), int(values["pid"]), str(values["since"]))
    except (ValueError, TypeError, KeyError):
        return Owner()


def _changes(directory: Path, before: bytes, interval: float) -> bool:
    """Whether an owner renews the heartbeat within three intervals. No clocks are compared: those of two machines differ."""
    deadline = time.monotonic() + 3 * interval
    while time.monotonic() < deadline:
        time.sleep(min(0.5, interval / 4))
        if (now := _read_heartbeat(directory)) != before:
            return now is not None  # an owner that ends removes it
    return False
