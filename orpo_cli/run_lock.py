"""Lock of a run directory: one process owns a run, also where machines share a disk.

``.lock`` is locked with flock, which the kernel releases when its process ends, in whatever way. ``.heartbeat`` names the owner and
has a counter that a thread of the owner increments. A machine that cannot see the lock of another one, as on some network
file systems, watches the counter. Process ids are only shown: they are reused, and differ between containers.

An owner that is suspended does not increment its counter, so that another machine may take its run over. When it wakes up, it
finds the heartbeat of the new owner, and changes nothing in the directory.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from orpo_cli.errors import RunError, UsageError
from orpo_cli.file_lock import FileLock, locking_process, try_lock
from orpo_cli.run_attempts import now

LOCK_FILE, HEARTBEAT_FILE = ".lock", ".heartbeat"
HEARTBEAT_SECONDS = 5.0  # three intervals without a change mean that the owner is dead
_PROBE_SECONDS = 0.3  # `live_owner` of another process holds the lock for less


@dataclass(frozen=True)
class Owner:
    """Process that trains a run, as its heartbeat names it."""

    host: str = "an unknown host"
    boot_id: str = ""
    pid: int = 0
    since: str = "?"

    def __str__(self) -> str:
        if not self.pid:
            return "another process"
        return f"process {self.pid}" + (f" on {self.host}, since {self.since}" if self.boot_id else "")


def active_run_error(directory: Path, owner: Owner) -> UsageError:
    """The error of a command that would train in a run that another process trains."""
    return UsageError(
        f"output_dir {directory}: a run is going on there ({owner}).",
        remedy="Wait for it, or use another directory (--set output_dir=DIR).",
    )


class RunLost(RunError):
    """Another process has taken the run over from this one."""


class RunLock:
    """Lock of one run directory, from ``acquire`` to ``release`` or the end of the process.

    ``file`` is None where the parent of this process has locked the directory.
    """

    def __init__(self, directory: Path, file: FileLock | None, interval: float, token: str | None = None) -> None:
        self.directory = directory
        self._file = file
        self._interval = interval
        self.token = token or uuid.uuid4().hex  # in the heartbeat
        self._owner = Owner(platform.node(), boot_id(), os.getpid(), now())
        self._lost_to: Owner | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="run heartbeat", daemon=True)

    @classmethod
    def acquire(cls, directory: Path, note: Callable[[str], None], *, interval: float = HEARTBEAT_SECONDS) -> RunLock:
        """Lock ``directory``, which exists.

        Raises UsageError where another process owns it, OSError where the files of the lock cannot be written.
        """
        file = _lock_file(directory)
        lock = cls(directory, file, interval)
        try:
            if not file.protects:
                note(f"{directory}: this file system has no file locks; only the heartbeat protects the run")
            lock._claim_heartbeat(note, protects=file.protects)
        except BaseException:
            file.close()
            raise
        lock._thread.start()
        return lock

    @classmethod
    def follow(cls, directory: Path, token: str) -> RunLock:
        """The lock that another process of the same job holds with this token: here it is only checked."""
        return cls(directory, None, HEARTBEAT_SECONDS, token)

    def is_held(self) -> bool:
        """Whether the heartbeat in the directory is the one of this lock."""
        return self._is_own(_read_heartbeat(self.directory))

    def release(self) -> None:
        """Let other processes own the directory. Does nothing in a forked process, or the second time."""
        if self._file is None or self._file.descriptor is None:
            return
        self._stop.set()
        self._thread.join(timeout=self._interval)
        if self._is_own(_read_heartbeat(self.directory)):
            (self.directory / HEARTBEAT_FILE).unlink(missing_ok=True)
        self._file.close()

    def check(self) -> None:
        """Raise RunLost where another process has taken the run over. To be called before each change of the directory."""
        self._lost_to = self._lost_to or self._new_owner()
        if self._lost_to is not None:
            raise RunLost(
                f"{self.directory}: {self._lost_to} has taken the run over, because this process was suspended and did "
                f"not renew its heartbeat for {3 * self._interval:.0f} s.",
                remedy="The run goes on there from its last checkpoint. This process has stopped and changed nothing of it.",
            )

    def _new_owner(self) -> Owner | None:
        """The process whose heartbeat is in place of the own one; None where the own one is there, or cannot be read."""
        path = self.directory / HEARTBEAT_FILE
        for last in (False, True):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                if not os.path.exists(self.directory / LOCK_FILE):  # the directory is removed or away
                    return None
                if last:  # the new owner has ended
                    return Owner()
                time.sleep(_PROBE_SECONDS)  # a process that was too late to take it over renames it back
            except OSError:  # the disk is away for a moment
                return None
            else:
                return None if self._is_own(content) else _parse(content)
        return None

    def _claim_heartbeat(self, note: Callable[[str], None], *, protects: bool) -> None:
        """Create the heartbeat, which another process cannot do at the same time; take over that of a dead owner."""
        path = self.directory / HEARTBEAT_FILE
        before = _read_heartbeat(self.directory)
        if before is not None:
            owner = _parse(before)
            if not (protects and owner.boot_id == boot_id()):
                note(f"{self.directory}: checking whether {owner} still trains there, {3 * self._interval:.0f} s")
                if _changes(self.directory, before, self._interval):
                    raise active_run_error(self.directory, owner)
            taken = path.with_name(f"{HEARTBEAT_FILE}.{self.token}")
            path.rename(taken)
            if taken.read_bytes() != before:  # another process was faster
                taken.rename(path)
                raise active_run_error(self.directory, owner)
            taken.unlink()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            raise active_run_error(self.directory, _parse(_read_heartbeat(self.directory))) from None
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(self._content(0))
        except OSError:  # a full disk
            path.unlink(missing_ok=True)
            raise

    def _renew(self) -> None:
        """Increment the counter, in place: opening and closing the file makes the change visible over NFS."""
        count = 0
        while not self._stop.wait(self._interval):
            count += 1
            self._lost_to = self._lost_to or self._new_owner()
            if self._lost_to is not None:
                return
            with suppress(OSError), (self.directory / HEARTBEAT_FILE).open("r+b") as file:  # the disk may be away
                if self._is_own(file.read()):  # not one that a new owner has created a moment ago
                    file.seek(0)
                    file.write(self._content(count))

    def _content(self, count: int) -> bytes:
        return json.dumps({**asdict(self._owner), "token": self.token, "count": f"{count:012d}"}).encode() + b"\n"

    def _is_own(self, content: bytes | None) -> bool:
        return content is not None and self.token.encode() in content


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
        return _lock_holder(directory)
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


def _lock_file(directory: Path) -> FileLock:
    deadline = time.monotonic() + _PROBE_SECONDS
    while (lock := try_lock(directory / LOCK_FILE)) is None:
        if time.monotonic() > deadline:
            raise active_run_error(directory, _lock_holder(directory))
        time.sleep(0.02)
    return lock


def _lock_holder(directory: Path) -> Owner:
    """The owner by its heartbeat; by its lock while it is about to write the heartbeat, or has removed it."""
    owner = _parse(_read_heartbeat(directory))
    return owner if owner.pid else Owner(pid=locking_process(directory / LOCK_FILE))


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
        if (found := _read_heartbeat(directory)) != before:
            return found is not None  # an owner that ends removes it
    return False
