"""What killed processes leave: folders half written and temporary directories are removed later, those of living ones never."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orpo_cli import atomic
from orpo_cli.atomic import atomic_directory, atomic_write_text, remove_leftovers
from orpo_cli.errors import UsageError
from orpo_cli.file_lock import FileLock, try_lock
from orpo_cli.run_lock import RunLock
from orpo_cli.temporary_directory import remove_dead_directories, temporary_directory

WRITER = """
import sys, time
from pathlib import Path
from orpo_cli.atomic import atomic_directory
with atomic_directory(Path(sys.argv[1])) as folder:
    (folder / "weights").write_text("half")
    print(folder, flush=True)
    time.sleep(60)
"""
TEXT_WRITER = """
import os, sys, time
from pathlib import Path
from orpo_cli.atomic import atomic_write_text
def wait(descriptor):
    print(next(Path(sys.argv[1]).parent.glob(".*")), flush=True)
    time.sleep(60)
os.fsync = wait
atomic_write_text(Path(sys.argv[1]), "half")
"""
TEMPORARY = """
import sys, time
from orpo_cli.temporary_directory import TemporaryDirectory
directory = TemporaryDirectory("pairs")
(directory.path / "pairs.arrow").write_text("pairs")
if sys.argv[1] == "keep":
    directory.keep()
print(directory.path, flush=True)
time.sleep(60)
"""


@contextmanager
def running(program: str, argument: object) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process, and the folder that it prints."""
    command = [sys.executable, "-c", program, str(argument)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_of_a_killed_process_is_removed_by_the_next_writer_and_that_of_a_living_one_is_not(
    tmp_path: Path,
) -> None:
    with running(WRITER, tmp_path / "merged") as (process, folder):
        with (
            pytest.raises(UsageError, match=f"process {process.pid} is writing"),
            atomic_directory(tmp_path / "merged"),
        ):
            pass
        remove_leftovers(tmp_path)
        assert (folder / "weights").exists()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert folder.exists()
    with atomic_directory(tmp_path / "merged") as new:
        (new / "weights").write_text("whole")
    assert names(tmp_path) == ["merged"]
    assert (tmp_path / "merged" / "weights").read_text() == "whole"


def test_leftovers_are_removed_also_where_another_process_has_the_number_of_the_dead_one(tmp_path: Path) -> None:
    """The parent of this process is alive and older than the folder, as after a restart of a container."""
    (tmp_path / f".merged.partial-{os.getppid()}").mkdir()
    (tmp_path / ".gguf.partial-2.replaced").mkdir()
    (tmp_path / ".gguf.partial-2.replaced" / "model").write_text("old")
    (tmp_path / ".gguf.partial-lock").write_text("2")
    for other in (".lock", ".package.lock", ".merged.partial-x"):
        (tmp_path / other).write_text("of another program")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".lock", ".merged.partial-x", ".package.lock", "gguf"]
    assert (tmp_path / "gguf" / "model").read_text() == "old"
    remove_leftovers(tmp_path / "absent")


def test_the_next_writer_of_a_file_removes_what_a_killed_one_left_but_not_what_a_living_one_writes(
    tmp_path: Path,
) -> None:
    target = tmp_path / "evaluation.json"
    others = [f".{target.name}.partial", f".{target.name}.partial-1-notes", ".other.json.partial-1-01234567"]
    with running(TEXT_WRITER, target) as (process, partial):
        for name in others:
            (tmp_path / name).write_text("of the user")
        atomic_write_text(target, "new")
        assert names(tmp_path) == sorted([*others, partial.name, target.name])
        process.kill()
        process.wait()
    assert partial.read_text() == "half"
    atomic_write_text(target, "newer")
    assert names(tmp_path) == sorted([*others, target.name])
    assert target.read_text() == "newer"


def test_a_file_that_another_process_removes_before_it_is_locked_is_written_under_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes write the same file: the second one looks for files of dead ones when the first has just created its own."""
    target, removing = tmp_path / "hub.json", []

    def contested(path: Path) -> FileLock | None:
        if removing:
            return try_lock(path)
        removing.append(try_lock(path))
        return None

    def remove(_: int) -> None:
        removing[0].release()

    monkeypatch.setattr(atomic, "try_lock", contested)
    monkeypatch.setattr(os, "fsync", remove)
    atomic_write_text(target, "new")
    assert (names(tmp_path), target.read_text()) == ([target.name], "new")


def test_a_name_with_pattern_characters_is_only_itself(tmp_path: Path) -> None:
    (tmp_path / ".a.partial-1").mkdir()
    with atomic_directory(tmp_path / "[a]"):
        pass
    assert names(tmp_path) == [".a.partial-1", "[a]"]


def test_a_forked_process_does_not_hold_the_lock_of_its_parent(tmp_path: Path) -> None:
    lock = try_lock(tmp_path / "lock")
    assert lock is not None
    (reader, writer), (started, begin) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.write(begin, b"x")
        os.read(reader, 1)  # until the parent is done
        os._exit(0)
    try:
        os.read(started, 1)
        lock.close()
        again = try_lock(tmp_path / "lock")
        assert again is not None
        assert try_lock(tmp_path / "lock") is None
        again.release()
        assert names(tmp_path) == []
    finally:
        for descriptor in (writer, reader, started, begin):
            os.close(descriptor)
        os.waitpid(child, 0)


def test_temporary_directories_of_killed_processes_are_removed_by_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "orpo-other").mkdir()  # of another program
    with running(TEMPORARY, "remove") as (killed, dead), running(TEMPORARY, "remove") as (_, alive):
        with running(TEMPORARY, "keep") as (keeper, kept):
            keeper.kill()
        killed.kill()
        killed.wait()
        with temporary_directory("download") as own:
            remove_dead_directories()
            assert names(tmp_path) == sorted(["orpo-other", alive.name, kept.name, own.name])
            assert not dead.exists()
            assert names(alive) == [".orpo-temporary", "pairs.arrow"]
        assert names(kept) == ["pairs.arrow"]


@pytest.mark.parametrize("name", ["orpo-run1", "orpo-smoke-run", "orpo-pairs-abcdefgh"])
def test_a_run_in_the_temporary_directory_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    run = tmp_path / name
    run.mkdir()
    RunLock.acquire(run, print).release()
    (run / "run.json").write_text("{}")
    remove_dead_directories()
    assert names(run) == [".lock", "run.json"]
