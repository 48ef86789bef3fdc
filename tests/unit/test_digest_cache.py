"""Digest cache: a large file is read again after every change, and not without one."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from orpo_cli import digest_cache
from orpo_cli.digest_cache import remembered_digest
from orpo_cli.digests import file_sha256


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digest_cache, "MIN_BYTES", 100)
    monkeypatch.setattr(digest_cache, "SETTLED_SECONDS", 0.05)
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"a" * 1000)
    return path


def read(path: Path) -> bool:
    """Whether the digest, which is always right, was computed from the file."""
    calls: list[Path] = []

    def counting(each: Path) -> str:
        calls.append(each)
        return file_sha256(each)

    assert remembered_digest(path, counting) == file_sha256(path)
    return bool(calls)


def settle() -> None:
    time.sleep(0.1)


def test_an_unchanged_file_is_read_once(file: Path) -> None:
    settle()
    assert read(file)
    assert not read(file)
    assert not read(file)


def overwrite(path: Path) -> None:
    """Another content of the same size, with the old time of the content."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"b" * 1000)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    """Another file under the same name, with the old size and time."""
    before, other = path.stat(), path.with_name("other")
    other.write_bytes(b"c" * 1000)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"d")


@pytest.mark.parametrize("change", [overwrite, replace, append])
def test_every_change_is_noticed(file: Path, change: object) -> None:
    settle()
    read(file)
    assert not read(file)
    change(file)  # type: ignore[operator]
    settle()
    assert read(file)
    assert not read(file)


def test_a_file_that_has_just_changed_is_not_remembered(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest_cache, "SETTLED_SECONDS", 60)
    assert read(file)
    assert read(file)


def test_a_file_that_changes_while_it_is_read_is_not_remembered(file: Path) -> None:
    settle()

    def changing(path: Path) -> str:
        append(path)
        return file_sha256(path)

    remembered_digest(file, changing)
    settle()
    assert read(file)


def test_a_record_of_another_boot_or_a_damaged_one_is_not_used(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle()
    read(file)
    (record,) = (Path(os.environ["ORPO_CACHE"]) / "digests").iterdir()
    record.write_text(record.read_text()[:-20])
    assert read(file)
    monkeypatch.setattr(digest_cache, "_BOOT_ID", file)
    assert read(file)


def test_small_files_are_always_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest_cache, "MIN_BYTES", 2000)
    settle()
    assert read(file)
    assert read(file)


def test_a_cache_that_cannot_be_written_is_no_error(file: Path) -> None:
    settle()
    Path(os.environ["ORPO_CACHE"]).write_text("a file")
    assert read(file)
    assert read(file)
