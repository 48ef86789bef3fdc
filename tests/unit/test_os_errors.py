"""Limits of the machine are found in the errors of every library, and bugs are not mistaken for them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.file_size_limit import file_size_limit
from support.tiny import tiny_tokenizer

from orpo_cli.atomic import atomic_directory
from orpo_cli.errors import MachineError
from orpo_cli.os_errors import LIMITS, OF_A_PATH, explain_os_error

TENSOR = torch.zeros(100_000)


def write_tokenizer(path: Path) -> None:
    tiny_tokenizer().backend_tokenizer.save(str(path))


def write_arrow(path: Path) -> None:
    import pyarrow

    table = pyarrow.table({"x": TENSOR.numpy()})
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


WRITERS: dict[str, Callable[[Path], object]] = {
    "open": lambda path: path.write_bytes(TENSOR.numpy().tobytes()),
    "safetensors": lambda path: save_file({"x": TENSOR}, path),
    "torch.save": lambda path: torch.save(TENSOR, path),
    "tokenizers": write_tokenizer,
    "pyarrow": write_arrow,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_that_the_disk_has_no_place_for_is_explained(tmp_path: Path, writer: str) -> None:
    with file_size_limit(4096), pytest.raises(Exception) as failed:  # noqa: PT011  each library has its own type
        WRITERS[writer](tmp_path / "file")
    explained = explain_os_error(failed.value, "cannot write file", "Free some space.")
    assert explained is not None
    assert explained.message.startswith("cannot write file: ")
    assert explained.exit_code == 3
    assert explained.remedy


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("writer", ["open", "tokenizers", "pyarrow"])
def test_a_full_disk_is_named(tmp_path: Path, writer: str) -> None:
    (tmp_path / "file").symlink_to("/dev/full")
    with pytest.raises(Exception) as failed:  # noqa: PT011
        WRITERS[writer](tmp_path / "file")
    explained = explain_os_error(failed.value, remedy="Free it.")
    assert explained is not None
    assert "the disk is full" in explained.message
    assert explained.remedy == "Free it."


@pytest.mark.parametrize("number", [*LIMITS, *OF_A_PATH])
def test_the_file_that_the_error_names_is_in_the_message(number: int) -> None:
    explained = explain_os_error(OSError(number, os.strerror(number), "runs/a"))
    assert explained is not None
    assert explained.message.startswith("runs/a: ")


def test_the_cause_of_an_error_of_a_library_counts() -> None:
    try:
        try:
            raise OSError(errno.EDQUOT, "Disk quota exceeded", "runs/a")
        except OSError as error:
            raise ValueError("could not save") from error
    except ValueError as error:
        explained = explain_os_error(error)
    assert explained is not None
    assert explained.message == "runs/a: the disk quota is used up."


@pytest.mark.parametrize(
    ("message", "part"),
    [
        ("can't start new thread", "threads"),
        ("libtorch_cpu.so: failed to map segment from shared object", "out of memory"),
        ("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory", "out of memory"),
        ("I/O error: Disk quota exceeded (os error 122)", "quota"),
        ("std::bad_alloc", "out of memory"),
    ],
)
def test_limits_are_found_in_messages(message: str, part: str) -> None:
    explained = explain_os_error(RuntimeError(message))
    assert explained is not None
    assert part in explained.message


def test_a_user_without_a_home_and_a_removed_directory_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explained = explain_os_error(RuntimeError("Could not determine home directory."))
    assert explained is not None
    assert "HOME" in str(explained.remedy)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    explained = explain_os_error(FileNotFoundError(errno.ENOENT, "No such file or directory"))
    assert explained is not None
    assert "current directory" in explained.message


def test_a_bug_is_not_a_limit() -> None:
    assert explain_os_error(ValueError("x")) is None
    assert explain_os_error(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None


def test_a_permission_that_a_library_went_on_without_is_not_the_cause() -> None:
    def fail() -> None:
        try:
            raise PermissionError(errno.EACCES, "Permission denied", "cache")
        except PermissionError:
            raise KeyError("x")  # noqa: B904

    with pytest.raises(KeyError) as failed:
        fail()
    assert explain_os_error(failed.value) is None


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EIO, errno.EROFS])
def test_an_error_of_reading_another_file_is_not_one_of_writing(tmp_path: Path, number: int) -> None:
    base, merged = tmp_path / "base" / "model.safetensors", tmp_path / "merged"
    with pytest.raises(OSError, match="base") as failed, atomic_directory(merged):
        raise OSError(number, os.strerror(number), str(base))
    explained = explain_os_error(failed.value)
    assert explained is not None
    assert explained.message.startswith(f"{base}: ")
    for name in ("model.safetensors", None):
        with pytest.raises(MachineError, match=r"cannot write .*merged"), atomic_directory(merged) as folder:
            raise OSError(number, os.strerror(number), name and str(folder / name))
