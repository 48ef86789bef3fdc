"""Atomic writes replace files, never links, devices or pipes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from orpo_cli.atomic import atomic_directory, atomic_write_text, keep_as_unverified
from orpo_cli.errors import MachineError


def test_a_link_stays_a_link_to_the_new_text(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    atomic_write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_a_link_to_a_folder_stays_a_link_to_the_new_folder(tmp_path: Path) -> None:
    (tmp_path / "disk" / "old").mkdir(parents=True)
    (tmp_path / "old").symlink_to(tmp_path / "disk" / "old")
    (tmp_path / "new").symlink_to(tmp_path / "disk" / "new")  # which does not exist yet
    for name in ("old", "new"):
        with atomic_directory(tmp_path / name) as folder:
            (folder / "file").write_text("text")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "disk" / name / "file").read_text() == "text"
    kept = keep_as_unverified(tmp_path / "disk" / "new", tmp_path / "old")
    assert kept == tmp_path / "disk" / "old.unverified"
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name and path.is_dir()]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    atomic_write_text(pipe, "text")
    reader.join(timeout=10)
    assert read == ["text"]
    assert pipe.is_fifo()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_device_is_an_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(MachineError, match="No space left"):
        atomic_write_text(tmp_path / "full", "text")
    assert Path("/dev/full").is_char_device()


def test_two_writers_at_once_leave_the_text_of_one(tmp_path: Path) -> None:
    path, errors = tmp_path / "file", []
    texts = [letter * 300_000 for letter in "abcd"]

    def write(text: str) -> None:
        try:
            for _ in range(10):
                atomic_write_text(path, text)
                assert path.read_text() in texts
        except BaseException as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(text,)) for text in texts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert errors == []
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
