"""File operations of a process: the audit hook that counts them below one folder, and the fault at the operation with a given number.

The same command has the same operations, which makes fault points repeatable. Python reports an operation to the audit hook before it happens. Writes of native code (torch.save, safetensors) are not reported,
so these functions are wrapped.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink", "shutil.rmtree"}
WRAPPED = {
    "torch.serialization": ("save",),
    "safetensors.torch": ("save_file", "save_model"),
    "safetensors": ("serialize_file",),
}
RANDOM = re.compile(r"(?<=-)[0-9a-f]{8,}")

_watcher: FileOperations | None = None


class FileOperations:
    """Watcher of the file operations below ``folder``, which calls ``at_operation(name, path, occurrence)`` before each one.

    ``path`` is relative to the folder, with PID and ID for what differs from process to process; ``occurrence`` counts equal operations from 1.
    """

    def __init__(self, folder: Path, at_operation: Callable[[str, str, int], None]) -> None:
        self.folder = os.path.realpath(folder)
        self.at_operation = at_operation
        self.counts: Counter[tuple[str, str]] = Counter()
        self.process = os.getpid()
        self.thread = threading.local()  # checkpoint files are flushed by several threads
        self.lock = threading.Lock()

    def start(self) -> None:
        """Count from now on, to the end of the process: an audit hook cannot be removed."""
        global _watcher
        _watcher = self
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITE_FLAGS:
                self.operation("open", path)
        elif event in CHANGES:
            self.operation(event, arguments[0], arguments[-1])

    def operation(self, name: str, path: Any, folder_descriptor: Any = -1) -> None:
        """Count an operation, if its path is below the folder."""
        if getattr(self.thread, "inside", False) or os.getpid() != self.process:
            return
        self.thread.inside = True  # what happens here is not an operation of the command
        try:
            place = _absolute(path, folder_descriptor)
            if place is not None and (place + "/").startswith(self.folder + "/"):
                relative = RANDOM.sub("ID", os.path.relpath(place, self.folder).replace(str(self.process), "PID"))
                with self.lock:
                    self.counts[name, relative] += 1
                    occurrence = self.counts[name, relative]
                self.at_operation(name, relative, occurrence)
        finally:
            self.thread.inside = False


def _absolute(path: Any, folder_descriptor: Any) -> str | None:
    try:
        if isinstance(path, int):
            return os.readlink(f"/proc/self/fd/{path}")
        text = os.fsdecode(path)
        if isinstance(folder_descriptor, int) and folder_descriptor >= 0 and not os.path.isabs(text):
            return os.path.join(os.readlink(f"/proc/self/fd/{folder_descriptor}"), text)
        parent, name = os.path.split(os.path.abspath(text))
        return os.path.join(os.path.realpath(parent), name)
    except (OSError, TypeError, ValueError):
        return None


def wrap_native_writers() -> None:
    """Report fsync, torch.save and safetensors to the watcher of this process; to be called once, after the imports."""
    fsync = os.fsync

    def reported_fsync(descriptor: Any) -> None:
        _report("fsync", descriptor if isinstance(descriptor, int) else descriptor.fileno())
        fsync(descriptor)

    os.fsync = reported_fsync
    for module_name, names in WRAPPED.items():
        for name in names:
            original = getattr(sys.modules[module_name], name)
            replace_everywhere(original, _reported(original, name))


def _reported(original: Callable[..., Any], name: str) -> Callable[..., Any]:
    def reported(*arguments: Any, **keywords: Any) -> Any:
        paths = [each for each in (*arguments, *keywords.values()) if isinstance(each, str | os.PathLike)]
        for path in paths[:1]:
            _report(name, path)
        try:
            return original(*arguments, **keywords)
        finally:
            for path in paths[:1]:
                _report(f"{name} done", path)

    return reported


def _report(name: str, path: Any) -> None:
    if _watcher is not None:
        _watcher.operation(name, path)


def replace_everywhere(original: Any, replacement: Any) -> int:
    """Replace a function in each loaded module that has imported it. Returns the number of replacements."""
    replaced = 0
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None) or {}
        for name in [name for name, value in list(names.items()) if value is original]:
            setattr(module, name, replacement)
            replaced += 1
    return replaced


def record_to(path: Path) -> Callable[[str, str, int], None]:
    """A fault point that only writes each operation to ``path``."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)

    def record(*operation: object) -> None:
        os.write(descriptor, "\t".join(map(str, operation)).encode() + b"\n")

    return record


def kill_at(wanted: Sequence[object], delay: float = 0.0) -> Callable[[str, str, int], None]:
    """SIGKILL at operation ``wanted``, or ``delay`` seconds after its begin, while native code may be writing."""

    def kill(*operation: object) -> None:
        if operation == tuple(wanted) and delay:
            threading.Thread(target=_kill_after, args=(delay,), daemon=True).start()
        elif operation == tuple(wanted):
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


def _kill_after(delay: float) -> None:
    time.sleep(delay)
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk_at(wanted: Sequence[object], ballast: Path, left: int) -> Callable[[str, str, int], None]:
    """At operation ``wanted``, fill the file system of ``ballast`` with that file until ``left`` bytes are free."""

    def fill(*operation: object) -> None:
        if operation != tuple(wanted):
            return
        free = os.statvfs(ballast.parent)
        size = max(0, free.f_bavail * free.f_frsize - left)
        descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError:
            pass
        finally:
            os.close(descriptor)

    return fill
