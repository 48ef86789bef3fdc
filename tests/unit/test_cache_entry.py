"""Cache entries: verified when they are used, written again when damaged, and not blocked by dead processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.file_damage import flip

from orpo_cli.cache_entry import MANIFEST, cached_entry, find_damage
from orpo_cli.errors import RunError


def create(folder: Path) -> None:
    (folder / "a.bin").write_bytes(os.urandom(5000))
    (folder / "inner").mkdir()
    (folder / "inner" / "b.json").write_text('{"x": 1}')


def use(entry: Path) -> tuple[bool, list[str]]:
    notes: list[str] = []
    return cached_entry(entry, create, notes.append, what="writes the test"), notes


def test_an_entry_is_written_once(tmp_path: Path) -> None:
    entry = tmp_path / "cache" / "x.y"
    assert use(entry) == (False, [])
    content = (entry / "a.bin").read_bytes()
    assert use(entry) == (True, [])
    assert (entry / "a.bin").read_bytes() == content
    assert find_damage(entry) is None
    assert list(entry.parent.iterdir()) == [entry]  # and no lock


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a.bin has changed": lambda entry: flip(entry / "a.bin"),
    "inner/b.json has changed": lambda entry: (entry / "inner" / "b.json").write_text("{}"),
    "a.bin is missing": lambda entry: (entry / "a.bin").unlink(),
    "inner/b.json is missing": lambda entry: shutil.rmtree(entry / "inner"),
    "manifest.json cannot be read": lambda entry: (entry / MANIFEST).write_text("[1"),
    "manifest.json lists no files": lambda entry: (entry / MANIFEST).write_text("{}"),
    "it has no manifest.json": lambda entry: (entry / MANIFEST).unlink(),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_a_damaged_entry_is_written_again_with_a_note(reason: str, tmp_path: Path) -> None:
    entry = tmp_path / "x"
    use(entry)
    DAMAGES[reason](entry)
    found, (note,) = use(entry)
    assert not found
    assert note.startswith(f"{entry} is damaged ({reason}")
    assert note.endswith("): it is written again")
    assert use(entry) == (True, [])


def test_a_manifest_with_other_types_is_damage(tmp_path: Path) -> None:
    entry = tmp_path / "x"
    for text in ('["a.bin"]', '{"a.bin": 5}', '{"a.bin": ["5000", null]}', '{"../x": [0, ""]}', "null", "\0"):
        use(entry)
        (entry / MANIFEST).write_text(text)
        assert not use(entry)[0], text


def test_an_error_leaves_the_entry_as_it_was(tmp_path: Path) -> None:
    entry = tmp_path / "x"

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RunError("no")

    with pytest.raises(RunError):
        cached_entry(entry, fail, lambda _: None, what="fails")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    assert use(entry)[0] is False


WRITER = """
import os, sys, time
from pathlib import Path
from orpo_cli.cache_entry import cached_entry
def create(folder):
    (folder / "half").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
cached_entry(Path(sys.argv[1]), create, print, what="writes the test")
"""


@pytest.mark.parametrize("next_entry", ["x", "y"])
def test_a_killed_writer_leaves_nothing_that_blocks_or_stays(tmp_path: Path, next_entry: str) -> None:
    """Also where its process id is in use again, as it is in each container."""
    entry = tmp_path / "x"
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(entry)], stdout=subprocess.PIPE, text=True, cwd=root, env={**os.environ}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    (leftover,) = (path for path in tmp_path.glob(".x.partial-*") if path.is_dir())
    leftover.rename(tmp_path / f".x.partial-{os.getppid()}")  # a living process, older than the directory
    started = time.monotonic()
    assert use(tmp_path / next_entry) == (False, [])
    assert time.monotonic() - started < 10
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [next_entry]


def test_processes_wait_for_the_one_that_writes(tmp_path: Path) -> None:
    entry, root = tmp_path / "x", Path(__file__).parents[2]
    code = WRITER.replace("sleep(60)", "sleep(1)")
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(entry)], stdout=subprocess.PIPE, text=True, cwd=root)
        for _ in range(3)
    ]
    printed = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert "".join(printed).count("writing\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_may_only_be_read_is_used(tmp_path: Path) -> None:
    entry = tmp_path / "cache" / "x"
    use(entry)
    (tmp_path / "cache" / "x.lock").unlink(missing_ok=True)
    (tmp_path / "cache").chmod(0o500)
    try:
        assert use(entry) == (True, [])
        with pytest.raises(PermissionError):
            use(tmp_path / "cache" / "y")
    finally:
        (tmp_path / "cache").chmod(0o700)
