"""File locks with flock, which the kernel releases when their process ends, in whatever way."""

from __future__ import annotations

import errno
import fcntl
import os
import weakref
from contextlib import suppress
from pathlib import Path

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}  # of some network file systems


class FileLock:
    """Exclusive lock of a file, from ``try_lock`` to ``release`` or the end of the process.

    ``protects`` is false where the file system has no locks.
    """

    def __init__(self, path: Path, descriptor: int, *, protects: bool) -> None:
        self.path = path
        self.protects = protects
        self.descriptor: int | None = descriptor
        _held.add(self)

    def release(self) -> None:
        """Remove the file and let other processes lock the path. Does nothing in a forked process, or the second time."""
        if self.descriptor is not None:
            self.path.unlink(missing_ok=True)
            self.close()

    def close(self) -> None:
        """Let other processes lock the file, which stays."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _close_in_fork() -> None:
    """A worker process that outlives its parent must not hold the locks."""
    for lock in list(_held):
        lock.close()


os.register_at_fork(after_in_child=_close_in_fork)


def try_lock(path: Path) -> FileLock | None:
    """The lock of ``path``, which is created and names this process; None while another process holds it. Raises OSError."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return FileLock(path, descriptor, protects=False)
            os.close(descriptor)
            raise
        if _is_at(descriptor, path):
            with suppress(OSError):  # a full disk; the number is only shown
                os.ftruncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
            return FileLock(path, descriptor, protects=True)
        os.close(descriptor)  # its owner removed it before it was locked: try again


def locking_process(path: Path) -> int:
    """The number of the process that holds the lock; 0 where the file does not name it."""
    try:
        return int(path.read_bytes())
    except (OSError, ValueError):
        return 0


def lock_owner(path: Path) -> str:
    """The process that holds the lock, as a message names it."""
    process = locking_process(path)
    return f"process {process}" if process else "another process"


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False
