"""File systems without locks."""

from __future__ import annotations

import errno
import os


def no_locks(*_: object) -> None:
    """``fcntl.flock`` of a file system that has no locks."""
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
