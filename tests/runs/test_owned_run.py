"""A run and its owner: what each command says while a run is trained by another process, after that was killed, and on resume."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from pathlib import Path

import pytest
from support.file_locks import no_locks
from support.forked_command import ForkedCommand, StopPoint
from support.forks import fork_that_waits, kill
from support.killed_run import READING, RESUME, Orpo, attempts, make_run_of_version_0_2_0, run_command
from support.tiny import write_pairs

from orpo_cli.run_lock import RunLock
from orpo_cli.run_status import begin_attempt
from orpo_cli.rundir import RunDir


def own(rundir: RunDir) -> RunDir:
    """Own the run as `orpo train` does."""
    rundir.acquire(lambda text: None)
    begin_attempt(rundir, from_step=4, versions={})
    return rundir


def files_of(rundir: RunDir) -> dict[str, bytes]:
    """The files of a run, without those of a single process: its log, and what it has not completed; and the heartbeat."""
    found = {path.relative_to(rundir.root).as_posix(): path for path in rundir.root.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in found.items()
        if name != ".heartbeat" and not name.startswith("logs/") and ".partial" not in name
    }


@pytest.mark.parametrize(
    "function",
    [
        pytest.param("orpo_cli.model.base_model:load_base", marks=pytest.mark.slow),
        "orpo_cli.training.metrics_log:metrics_record",
        "orpo_cli.training.checkpoint_writer:CheckpointWriter.publish",
        pytest.param("orpo_cli.training.train:copy_mode_to_weights", marks=pytest.mark.slow),
        "orpo_cli.training.train:_record_result",
    ],
    ids=["preparation", "metrics", "checkpoint", "result", "end"],
)
def test_a_suspended_process_whose_run_was_taken_over_changes_nothing(
    killed: tuple[Path, RunDir], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """As if another machine, which does not see the lock of the process, took the run over."""
    import orpo_cli.training.make_trainer  # noqa: F401  loaded once for all forks

    recipe, rundir = killed
    command = ForkedCommand(tmp_path / "command", ["train", recipe, *RESUME], stop=StopPoint(function))
    command.wait_for_stop()
    if function.endswith("publish"):  # the training goes on beside it, and may be between its check and its write
        command.wait_until(lambda: b"checkpoints/checkpoint-6" in (rundir.root / "metrics.jsonl").read_bytes())
    os.kill(command.process, signal.SIGSTOP)
    monkeypatch.setattr(fcntl, "flock", no_locks)
    lock = RunLock.acquire(rundir.root, lambda text: None, interval=0.1)
    before = files_of(rundir)
    os.kill(command.process, signal.SIGCONT)
    command.go_on()
    code, after = command.wait(), files_of(rundir)
    assert code == 5, command.stderr
    assert f"{rundir.root}: process {os.getpid()} on " in command.stderr
    assert "has taken the run over" in command.stderr
    assert "Traceback" not in command.stderr
    assert after.keys() == before.keys()
    assert [name for name in before if before[name] != after[name]] == []
    lock.check()
    lock.release()


@pytest.mark.parametrize("command", READING, ids=lambda command: command[0])
def test_a_live_run_is_still_training_and_a_killed_one_can_be_resumed(
    killed: tuple[Path, RunDir], orpo_here: Orpo, tmp_path: Path, command: tuple[str, ...]
) -> None:
    _, rundir = killed
    with fork_that_waits(lambda: own(rundir), tmp_path) as process:
        live = run_command(orpo_here, command, rundir)
        assert live.returncode == 2
        assert f"is still training (process {process} on " in live.stderr
        assert "at step 5" in live.stderr
        assert "→ Wait" in live.stderr
        assert "--resume" not in live.stderr
        kill(process)
    dead = run_command(orpo_here, command, rundir)
    assert dead.returncode == 2
    assert "its status is 'killed'" in dead.stderr
    assert "--resume auto" in dead.stderr


def test_train_does_not_touch_a_live_run(killed: tuple[Path, RunDir], orpo_here: Orpo, tmp_path: Path) -> None:
    recipe, rundir = killed
    with fork_that_waits(lambda: own(rundir), tmp_path) as process:
        before = {
            path: path.read_bytes() for path in rundir.root.rglob("*") if path.is_file() and path.name != ".heartbeat"
        }
        for more in ((), RESUME, ("--resume", str(rundir.checkpoints / "checkpoint-4"))):
            refused = orpo_here("train", recipe, *more)
            assert refused.returncode == 2
            assert f"a run is going on there (process {process} on " in refused.stderr
            assert "→ Wait for it, or use another directory (--set output_dir=DIR)." in refused.stderr
        assert before == {path: path.read_bytes() for path in before}
    assert "status: killed" in orpo_here("train", recipe).stderr


def test_the_attempts_of_a_run_are_listed(killed: tuple[Path, RunDir], orpo_here: Orpo) -> None:
    recipe, rundir = killed
    train = recipe.parent / "train.jsonl"
    write_pairs(train, 150)  # more than the rows that are checked before an attempt begins
    train.write_text(train.read_text() + "{")
    assert orpo_here("train", recipe, *RESUME, "--allow-changed", "data").returncode == 4
    assert rundir.status() == "failed"
    assert attempts(rundir) == [(1, "killed", 0, 5), (2, "failed", 4, 4)]
    write_pairs(train, 24)
    done = orpo_here("train", recipe, *RESUME)
    assert done.returncode == 0, done.stderr
    assert attempts(rundir) == [(1, "killed", 0, 5), (2, "failed", 4, 4), (3, "finished", 4, 6)]
    run = rundir.read_run()
    for attempt in run["attempts"]:
        assert attempt["started_at"] <= attempt["ended_at"]
        assert attempt["host"]
        assert attempt["pid"]
        assert attempt["versions"]["torch"]
    assert run["error"] is None
    assert [path.name for path in sorted(rundir.logs.iterdir())] == [f"attempt-{number}.log" for number in (1, 2, 3)]
    assert {path.name for path in rundir.root.iterdir()} >= {".lock"}
    assert not (rundir.root / ".heartbeat").exists()


def test_a_resumed_run_that_is_interrupted_in_the_preparation_is_interrupted(
    killed: tuple[Path, RunDir], orpo_here: Orpo, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, rundir = killed

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("orpo_cli.model.base_model.load_base", interrupt)
        assert orpo_here("train", recipe, *RESUME).returncode == 130
    assert rundir.status() == "interrupted"
    assert attempts(rundir)[-1] == (2, "interrupted", 4, 4)


def test_starting_over_keeps_the_files_of_the_user(killed: tuple[Path, RunDir], orpo_here: Orpo) -> None:
    recipe, rundir = killed
    shutil.rmtree(rundir.checkpoints)
    notes = rundir.root / "notes" / "of the user.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    with rundir.metrics.open("a") as file:
        file.write("# a line of the user\n")
    done = orpo_here("train", recipe, *RESUME)
    assert done.returncode == 0, done.stderr
    assert "starting from step 0" in done.stderr
    assert notes.read_text() == "mine"
    assert "attempt-1.log" in {path.name for path in rundir.logs.iterdir()}
    assert attempts(rundir) == [(1, "killed", 0, 5), (2, "finished", 0, 6)]
    lines = rundir.metrics.read_text().splitlines()
    assert lines[0] == "# a line of the user"
    assert [line["step"] for line in rundir.read_metrics()] == list(range(1, 7))


def test_of_two_resumptions_at_once_exactly_one_trains(killed: tuple[Path, RunDir], tmp_path: Path) -> None:
    recipe, rundir = killed
    both = [ForkedCommand(tmp_path / name, ["train", recipe, *RESUME]) for name in ("one", "other")]
    codes = [command.wait() for command in both]
    errors = [command.stderr for command in both]
    assert sorted(codes) == [0, 2], errors
    assert "a run is going on there" in errors[codes.index(2)]
    assert attempts(rundir) == [(1, "killed", 0, 5), (2, "finished", 4, 6)]
    assert [line["step"] for line in rundir.read_metrics()] == list(range(1, 7))


def test_a_run_of_version_0_2_is_resumed(killed: tuple[Path, RunDir], orpo_here: Orpo) -> None:
    """It has no lock, no attempts, no fingerprints, no logs, and checkpoints without a manifest."""
    recipe, rundir = killed
    make_run_of_version_0_2_0(rundir)
    assert "status: killed" in orpo_here("train", recipe).stderr
    done = orpo_here("train", recipe, *RESUME)
    assert done.returncode == 0, done.stderr
    assert "checkpoint-4" in done.stderr
    assert attempts(rundir) == [(1, "killed", 0, 5), (2, "finished", 4, 6)]
