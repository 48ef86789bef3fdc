"""Errors of the operating system as messages: a full disk, a quota, limits of memory, open files and threads, permissions.

The libraries report them in many types. safetensors and tokenizers (Rust) and torch.save (C++) have only a text.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from orpo_cli.errors import MachineError, OrpoError

_RAISE = "Raise the limit ({}) in the shell, then repeat the command."
_OTHER_DISK = "Free some space, or choose another disk."
# Limits of the machine: the reason that a message gives, and the remedy.
LIMITS = {
    errno.ENOSPC: ("the disk is full (No space left on device)", _OTHER_DISK),
    errno.EDQUOT: ("the disk quota is used up", "Free some space, or ask for a larger quota."),
    errno.EFBIG: ("the file exceeds the maximum file size", _RAISE.format("ulimit -f")),
    errno.EROFS: ("the disk is mounted read-only", "Choose another disk, or mount it for writing."),
    errno.EIO: ("input/output error", "Check the disk or the connection to it, or choose another one."),
    errno.EMFILE: ("this process may not open more files", _RAISE.format("ulimit -n")),
    errno.ENFILE: ("this machine may not open more files", "Close other programs, then repeat the command."),
    errno.ENOMEM: ("out of memory", "Close other programs, or raise the limit (ulimit -v) in the shell."),
    errno.EAGAIN: (
        "no more threads or processes can be started",
        f"{_RAISE.format('ulimit -u')} OMP_NUM_THREADS=1 needs fewer threads.",
    ),
}
# Errors of one path. A library may meet them, ignore them and fail for another reason: they count only as the error itself.
OF_A_PATH = {
    errno.EACCES: ("no permission (Permission denied)", "Change the permissions, or choose another place."),
    errno.EPERM: ("no permission (Operation not permitted)", "Change the permissions, or choose another place."),
    errno.ENAMETOOLONG: ("the file name is too long", "Choose a shorter name."),
}
_ON_A_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
_OF_WRITING = {*_ON_A_DISK, errno.EFBIG, *OF_A_PATH}
_ALSO_OF_READING = {errno.EACCES, errno.EPERM, errno.EIO, errno.EROFS}
_TEXTS = {
    "No space left on device": errno.ENOSPC,
    "PytorchStreamWriter failed": errno.ENOSPC,  # torch.save
    "unexpected pos": errno.ENOSPC,  # torch.save
    "iostream error": errno.ENOSPC,  # torch.save, at the end of its file
    "Disk quota exceeded": errno.EDQUOT,
    "File too large": errno.EFBIG,
    "Read-only file system": errno.EROFS,
    "Too many open files": errno.EMFILE,
    "can't allocate memory": errno.ENOMEM,  # torch
    "not enough memory: you tried to allocate": errno.ENOMEM,  # torch
    "Cannot allocate memory": errno.ENOMEM,
    "failed to map segment from shared object": errno.ENOMEM,  # an import
    "std::bad_alloc": errno.ENOMEM,
    "can't start new thread": errno.EAGAIN,
    "Resource temporarily unavailable": errno.EAGAIN,
    "ThreadPoolBuildError": errno.EAGAIN,  # tokenizers
}
_NUMBER_IN_TEXT = re.compile(r"\(os error (\d+)\)|\[[Ee]rrno (\d+)\]")


def explain_os_error(
    error: BaseException,
    what: str | None = None,
    remedy: str | None = None,
    *,
    numbers: Container[int] | None = None,
    written: Path | None = None,
) -> MachineError | None:
    """``error`` with a remedy, where it or one of its causes is a limit of the machine; None for any other error.

    ``what`` begins the message, by default the file that the error names. ``remedy`` replaces the general one for a disk.
    ``numbers``: those of the errors to explain, by default all. ``written``: errors that may be of reading count only where they
    name this path, or its temporary folder, or no file.
    """
    for each in _causes(error):
        number = _number(each)
        found = LIMITS.get(number) or (OF_A_PATH.get(number) if each is error else None)
        if written is not None and number in _ALSO_OF_READING and not _is_of(each, written):
            continue
        if found is not None and (numbers is None or number in numbers):
            reason, general_remedy = found
            start = what or _file_name(each)
            message = f"{start}: {reason}." if start else f"{reason}."
            return MachineError(message, remedy=remedy if remedy and number in _ON_A_DISK else general_remedy)
    return _explain_missing_directory(error) if numbers is None else None


def _explain_missing_directory(error: BaseException) -> MachineError | None:
    if isinstance(error, FileNotFoundError) and not _has_current_directory():
        return MachineError("the current directory has been removed.", remedy="Change to another one (cd).")
    if str(error) == "Could not determine home directory.":  # pathlib's
        return MachineError("this user has no home directory.", remedy="Set HOME, or ORPO_CACHE and HF_HOME.")
    if "No usable temporary directory" in str(error):
        return MachineError("there is no temporary directory to write to.", remedy="Set TMPDIR to a directory.")
    return None


def _has_current_directory() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


@contextmanager
def explain_limits(what: str, remedy: str | None = None) -> Iterator[None]:
    """Turn limits of the machine into a MachineError that begins with ``what``."""
    with _explaining(what, remedy, LIMITS):
        yield


@contextmanager
def explain_write_errors(target: Path, remedy: str) -> Iterator[None]:
    """Turn a full disk, and other reasons not to write, into a MachineError that names ``target``, also those of libraries.

    An error of reading another file is left as it is.
    """
    with _explaining(f"cannot write {target}", remedy, _OF_WRITING, target):
        yield


@contextmanager
def _explaining(what: str, remedy: str | None, numbers: Container[int], written: Path | None = None) -> Iterator[None]:
    try:
        yield
    except OrpoError:
        raise
    except Exception as error:
        explained = explain_os_error(error, what, remedy, numbers=numbers, written=written)
        if explained is None:
            raise
        raise explained from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _number(error: BaseException) -> int:
    """The number of the operating system's error; 0 where there is none."""
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno:
        return error.errno
    text = str(error)
    if match := _NUMBER_IN_TEXT.search(text):
        return int(match[1] or match[2])
    return next((number for part, number in _TEXTS.items() if part in text), 0)


def _is_of(error: BaseException, path: Path) -> bool:
    """Whether the error names ``path``, a file in it or in its temporary folder (``.NAME.partial-…``), or no file."""
    name = _file_name(error)
    if not name:
        return True
    file, folder = os.path.abspath(name), os.path.abspath(path.parent)
    first = os.path.relpath(file, folder).split(os.sep)[0]
    return first == path.name or first.startswith(f".{path.name}.partial")


def _file_name(error: BaseException) -> str:
    name = getattr(error, "filename2", None) or getattr(error, "filename", None)
    return os.fsdecode(name) if isinstance(name, str | bytes) else ""
