"""Creation of a run: complete or absent whenever it is killed, one winner, and nothing of the user removed."""

from __future__ import annotations

import fcntl
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support.file_locks import no_locks
from support.forks import fork_that_waits, kill_at_each_file_operation, race, start_fork, wait
from support.tiny_run import RECIPE, make_plan

from orpo_cli import run_lock
from orpo_cli.errors import MachineError, UsageError
from orpo_cli.run_attempts import FAILED
from orpo_cli.run_creation import SIBLING_PREFIX, create_run, discard_run
from orpo_cli.run_status import abandon_attempt
from orpo_cli.rundir import RunDir


@pytest.fixture(autouse=True)
def watch_heartbeats_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill may leave a heartbeat without content, which the next start watches for 15 s: it may be of another machine."""
    watch = run_lock._changes
    monkeypatch.setattr(run_lock, "_changes", lambda directory, before, interval: watch(directory, before, 0.05))


NEW = {".lock", "checkpoints", "plan.json", "recipe.yaml", "recipe.original.yaml", "run.json"}


def create(root: Path) -> RunDir:
    return create_run(make_plan(root, "unused/unused"), RECIPE, versions={"orpo_cli": "1"})


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("existing", [False, True], ids=["absent", "empty"])
def test_a_killed_creation_is_never_in_the_way(tmp_path: Path, existing: bool) -> None:
    """Killed at each of its file operations; the next creation succeeds, unless the first one was complete."""
    parent, kills, complete = tmp_path / "runs", 0, 0
    parent.mkdir()
    root = parent / "run"
    if existing:
        root.mkdir()
    for number in kill_at_each_file_operation(lambda: create(root)):
        kills = number
        if root.is_dir() and RunDir(root).is_run():
            complete += 1
            assert RunDir(root).status() == "killed"
            assert names(root) >= NEW
        else:
            with create(root):
                assert names(root) == NEW | {".heartbeat"}
        assert names(parent) == {"run"}  # the rest of a killed creation is gone
        with RunDir(root) as rundir:
            rundir.acquire(lambda text: None)
            discard_run(rundir)
        if existing:
            root.mkdir()
    assert kills > 15
    assert complete < kills / 2


def test_a_killed_removal_is_never_in_the_way(tmp_path: Path) -> None:
    root, kills = tmp_path / "run", 0

    def discard() -> None:
        with RunDir(root) as rundir:
            rundir.acquire(lambda text: None)
            (root / "logs").mkdir(exist_ok=True)
            (root / "logs" / "attempt-1.log").touch()
            rundir.data_report.touch()
            discard_run(rundir)

    with create(root):
        pass
    for number in kill_at_each_file_operation(discard):
        kills = number
        if root.is_dir() and RunDir(root).is_run():
            discard_files(root)
        with create(root):
            assert names(root) - {"logs"} == NEW | {".heartbeat"}
    assert kills > 10
    assert names(tmp_path) == set()


def discard_files(root: Path) -> None:
    with RunDir(root) as rundir:
        rundir.acquire(lambda text: None)
        discard_run(rundir)


@pytest.mark.parametrize("existing", [False, True], ids=["absent", "empty"])
def test_of_many_at_once_exactly_one_creates(tmp_path: Path, existing: bool) -> None:
    for number in range(15):
        root = tmp_path / str(number) / "run"
        root.parent.mkdir()
        if existing:
            root.mkdir()
        assert race(partial(create, root)) == 1
        assert names(root.parent) == {"run"}


def test_a_creation_that_begins_while_another_one_cleans_up_succeeds(tmp_path: Path) -> None:
    """Its hidden folder looks like one of a killed process between the creation of its lock file and the lock."""
    opened, removing, written, removed = (tmp_path / name for name in ("opened", "removing", "written", "removed"))

    def tell_and_wait(reached: Path, awaited: Path) -> None:
        if not reached.exists():
            reached.touch()
            while not awaited.exists():
                time.sleep(0.001)

    def begin_slowly(event: str, arguments: tuple[object, ...]) -> None:
        if event == "fcntl.flock":
            tell_and_wait(opened, removing)
        elif event == "os.rename" and str(arguments[1]).endswith("slow"):
            tell_and_wait(written, removed)

    def clean_up_slowly(event: str, _: object) -> None:
        if event == "shutil.rmtree":
            tell_and_wait(removing, written)

    def create_with(hook: Callable[[str, tuple[object, ...]], None], name: str) -> None:
        sys.addaudithook(hook)
        create(tmp_path / "runs" / name)

    (tmp_path / "runs").mkdir()
    slow = start_fork(partial(create_with, begin_slowly, "slow"))
    while not opened.exists():
        time.sleep(0.001)
    assert wait(start_fork(partial(create_with, clean_up_slowly, "fast"))) == 0
    removed.touch()
    assert wait(slow) == 0
    assert names(tmp_path / "runs") == {"fast", "slow"}


def test_the_sibling_of_a_living_creator_is_kept(tmp_path: Path) -> None:
    def begin() -> object:
        from orpo_cli.run_lock import RunLock

        sibling = tmp_path / f"{SIBLING_PREFIX}1"
        sibling.mkdir()
        return RunLock.acquire(sibling, lambda text: None)

    with fork_that_waits(begin, tmp_path), create(tmp_path / "run"):
        assert names(tmp_path) == {"fork-is-ready", f"{SIBLING_PREFIX}1", "run"}
    with create(tmp_path / "other"):
        assert names(tmp_path) == {"fork-is-ready", "run", "other"}


def test_files_of_the_user_are_not_overwritten(tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    (root / "recipe.yaml").write_text("mine")
    for lock in (False, True):  # with the lock, but with a file that is not from orpo
        if lock:
            (root / ".lock").touch()
            (root / "notes.txt").write_text("mine")
        with pytest.raises(UsageError, match="is not empty, and is not a run"):
            create(root)
        assert (root / "recipe.yaml").read_text() == "mine"


def test_a_run_starts_beside_the_log_of_a_job_scheduler_and_leaves_it(tmp_path: Path) -> None:
    """`orpo submit` writes it before the run exists. An interruption before the first step removes the run, not this log."""
    root = tmp_path / "run"
    (root / "logs").mkdir(parents=True)
    (root / "logs" / "slurm-1.log").write_text("waits")
    for _ in range(2):
        with create(root) as rundir:
            (root / "logs" / "attempt-1.log").touch()
            (root / "logs" / "attempt-1").mkdir()
            (root / "logs" / "attempt-1" / "rank-1.log").touch()
            abandon_attempt(rundir, FAILED, "no data")
        assert names(root) == {"logs"}
        assert names(root / "logs") == {"slurm-1.log"}


def test_a_failed_run_with_files_of_the_user_is_kept_as_failed(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with create(root) as rundir:
        (root / "notes.txt").write_text("mine")
        abandon_attempt(rundir, FAILED, "no data")
    assert RunDir(root).read_run()["attempts"][0]["detail"] == "no data"
    assert RunDir(root).status() == FAILED
    assert (root / "notes.txt").read_text() == "mine"


def test_a_link_to_a_directory_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    root = tmp_path / "run"
    root.symlink_to("disk")
    with create(root) as rundir:
        assert root.is_symlink()
        assert names(tmp_path / "disk") == NEW | {".heartbeat"}
        abandon_attempt(rundir, FAILED, "no data")
    assert root.is_symlink()
    assert names(tmp_path / "disk") == set()
    with create(root):
        pass


def test_a_directory_keeps_its_mode(tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    root.chmod(0o2770)
    with create(root):
        assert root.stat().st_mode & 0o7777 == 0o2770


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("n" * 300, "File name too long"),
        ("link", "is a link to nowhere, which does not exist"),
        ("file", "is a file"),
        ("file/a/run", "file is a file"),
        ("loop", "(Too many levels|is a link)"),
    ],
)
def test_a_directory_that_cannot_be_one_is_an_error(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("mine")
    before = names(tmp_path)
    with pytest.raises((UsageError, MachineError), match=message) as error:
        create(tmp_path / name)
    assert "output_dir=DIR" in str(error.value.remedy)
    assert "\n" not in str(error.value)
    assert names(tmp_path) == before


@pytest.mark.parametrize("name", ["run/", "./run", "a b", "größe", "emoji-🙂", "n" * 255, "a\nb", "a\x1b[31mb"])
def test_other_names_work(tmp_path: Path, name: str) -> None:
    with create(Path(f"{tmp_path}/{name}")) as rundir:
        assert rundir.is_run()


def test_a_full_disk_names_the_directory_of_the_run(tmp_path: Path) -> None:
    """No file of this process may have more than 600 bytes: plan.json has no space."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
    try:
        with pytest.raises(MachineError, match=f"cannot write {tmp_path}/run/plan.json") as error:
            create(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert SIBLING_PREFIX not in f"{error.value} {error.value.remedy}"
    assert names(tmp_path) == set()


def test_a_file_name_that_is_too_long_names_the_directory_of_the_run(tmp_path: Path) -> None:
    top = tmp_path / ("d" * 200)
    root = top
    while len(str(root)) < 4096 - 300:
        root = root / ("d" * 200)
    root = root / ("d" * (4096 - 45 - len(str(root)))) / "run"
    try:
        with pytest.raises(MachineError, match=r"name (is )?too long") as error:
            create(root)
        assert str(root) in str(error.value)
        assert SIBLING_PREFIX not in f"{error.value} {error.value.remedy}"
    finally:
        subprocess.run(["rm", "-rf", top], check=True)


def test_a_note_names_the_directory_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", no_locks)
    notes: list[str] = []
    with create_run(make_plan(tmp_path / "run", "unused/unused"), RECIPE, note=notes.append):
        assert [note.split(": this")[0] for note in notes] == [f"{tmp_path}/run"]


def test_a_directory_below_a_thousand_others_works(tmp_path: Path) -> None:
    try:
        with create(Path(f"{tmp_path}/{'a/' * 1500}run")) as rundir:
            assert rundir.is_run()
    finally:  # shutil.rmtree, which pytest uses, cannot
        subprocess.run(["rm", "-rf", tmp_path / "a"], check=True)
