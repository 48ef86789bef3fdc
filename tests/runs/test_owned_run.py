"""A run and its owner: what each command says while a run is trained by another process, after that was killed, and on resume."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.file_damage import halve
from support.forked_command import ForkedCommand, StopPoint
from support.forks import fork_that_waits, kill
from support.killed_run import kill_in_step, make_run_of_version_0_2_0
from support.tiny import write_pairs, write_recipe

from orpo_cli.run_lock import RunLock
from orpo_cli.run_status import begin_attempt
from orpo_cli.rundir import RunDir

SAVING = {"save_strategy": "steps", "save_steps": 2}
RESUME = ("--resume", "auto")
READING = (
    ("merge",),
    ("export",),
    ("eval",),
    ("generate", "--prompt", "Hi"),
    ("chat",),
    ("push-to-hub", "me/x", "--dry-run"),
)
Orpo = Callable[..., Any]


@pytest.fixture(scope="module")
def killed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a recipe of 6 steps and of its run, which was killed after its second checkpoint."""
    folder = tmp_path_factory.mktemp("killed")
    recipe = write_recipe(folder, estimated=False, steps=6, training=SAVING)
    kill_in_step(6, recipe)
    return folder


@pytest.fixture
def killed(killed_run: Path, tmp_path: Path) -> tuple[Path, RunDir]:
    """A copy of the recipe and of the killed run."""
    folder = Path(shutil.copytree(killed_run, tmp_path / "copy"))
    texts = ("recipe.yaml", "run/recipe.yaml", "run/recipe.original.yaml", "run/plan.json")
    for path in (folder / name for name in texts):
        path.write_text(path.read_text().replace(str(killed_run), str(folder)))
    return folder / "recipe.yaml", RunDir(folder / "run")


def attempts(rundir: RunDir) -> list[tuple[Any, ...]]:
    return [
        (each["number"], each["reason"], each["from_step"], each["to_step"]) for each in rundir.read_run()["attempts"]
    ]


def own(rundir: RunDir) -> RunDir:
    """Own the run as `orpo train` does."""
    rundir.acquire(lambda text: None)
    begin_attempt(rundir, from_step=4, versions={})
    return rundir


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


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


def run_command(orpo_here: Orpo, command: tuple[str, ...], rundir: RunDir) -> Any:
    return orpo_here(command[0], rundir.root, *command[1:])


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
    train.write_text("{")
    assert orpo_here("train", recipe, *RESUME).returncode == 4
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


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "object": lambda path: path.write_text("{}"),
    "binary": lambda path: path.write_bytes(b"\x80\x00\xff"),
    "half": halve,
    "lost": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["run.json", "plan.json"])
def test_a_damaged_record_is_written_again_on_resume(
    killed: tuple[Path, RunDir], orpo_here: Orpo, name: str, damage: str
) -> None:
    recipe, rundir = killed
    DAMAGES[damage](rundir.root / name)
    done = orpo_here("train", recipe, *RESUME)
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stderr
    assert f"{name}" in done.stderr
    assert "written again" in done.stderr
    assert rundir.read_run()["attempts"][-1]["from_step"] == 4
    assert rundir.status() == "finished"
    assert rundir.read_plan().training["max_steps"] == 6
    assert (rundir.root / f"{name}.damaged").exists() == (damage != "lost")


def test_a_lost_plan_is_not_written_from_another_recipe(killed: tuple[Path, RunDir], orpo_here: Orpo) -> None:
    recipe, rundir = killed
    rundir.plan.write_text("{}")
    refused = orpo_here("train", recipe, *RESUME, "--set", "training.beta=0.9")
    assert refused.returncode == 2
    assert "plan.json" in refused.stderr
    assert "The recipe differs" in refused.stderr
    assert rundir.plan.read_text() == "{}"


def test_damaged_records_of_a_finished_run(killed: tuple[Path, RunDir], orpo_here: Orpo) -> None:
    recipe, rundir = killed
    assert orpo_here("train", recipe, *RESUME).returncode == 0
    rundir.run.write_text("")
    for path in (rundir.evaluation, rundir.samples, rundir.data_report, rundir.pushes):
        path.write_text('{"models": [')
    done = orpo_here("train", recipe, *RESUME)
    assert done.returncode == 0, done.stderr
    assert "nothing to resume" in done.stderr
    assert rundir.status() == "finished"
    assert rundir.read_run()["steps"] == 6
    for name in ("evaluation.json", "samples.json", "data_report.json", "hub.json"):
        assert f"It is now {name}.damaged." in done.stderr
        assert not (rundir.root / name).exists()


@pytest.mark.parametrize("name", ["run.json", "plan.json"])
@pytest.mark.parametrize("command", READING, ids=lambda command: command[0])
def test_commands_name_a_damaged_record(
    killed: tuple[Path, RunDir], orpo_here: Orpo, command: tuple[str, ...], name: str
) -> None:
    _, rundir = killed
    for damage in ("empty", "object", "binary", "half"):
        shutil.copy(rundir.root / name, rundir.root / "saved")
        DAMAGES[damage](rundir.root / name)
        done = run_command(orpo_here, command, rundir)
        assert done.returncode == 2
        assert f"{rundir.root / name}: " in done.stderr or f"{rundir.root / name} is damaged: " in done.stderr
        assert "→ " in done.stderr
        assert "Traceback" not in done.stderr
        shutil.copy(rundir.root / "saved", rundir.root / name)


def test_a_line_of_metrics_that_was_cut_is_repaired_on_resume(killed: tuple[Path, RunDir], orpo_here: Orpo) -> None:
    recipe, rundir = killed
    lines = rundir.metrics.read_text().splitlines(keepends=True)
    lines = [line for line in lines if '"event"' not in line]
    rundir.metrics.write_text("".join(lines[:4]) + "hello\n" + lines[4][:20])
    done = orpo_here("train", recipe, *RESUME)
    assert done.returncode == 0, done.stderr
    assert "lines that are not metrics are kept: 1" in done.stderr
    assert [line["step"] for line in rundir.read_metrics()] == list(range(1, 7))
    assert rundir.metrics.read_text().splitlines()[4] == "hello"


def test_a_missing_card_of_a_finished_run_is_written(killed: tuple[Path, RunDir], orpo_here: Orpo) -> None:
    """The process was killed while it wrote the card."""
    recipe, rundir = killed
    assert orpo_here("train", recipe, *RESUME).returncode == 0
    card = rundir.card.read_text()
    rundir.card.unlink()
    partial = rundir.root / ".README.md.partial"
    partial.write_text(card[:100])
    done = orpo_here("train", recipe, *RESUME)
    assert done.returncode == 0, done.stderr
    assert rundir.card.read_text() == card
    assert not partial.exists()
    assert str(rundir.card) not in orpo_here("train", recipe, *RESUME).stderr


def test_a_run_of_version_0_2_is_resumed(killed: tuple[Path, RunDir], orpo_here: Orpo) -> None:
    """It has no lock, no attempts, no fingerprints, no logs, and checkpoints without a manifest."""
    recipe, rundir = killed
    make_run_of_version_0_2_0(rundir)
    assert "status: killed" in orpo_here("train", recipe).stderr
    done = orpo_here("train", recipe, *RESUME)
    assert done.returncode == 0, done.stderr
    assert "checkpoint-4" in done.stderr
    assert attempts(rundir) == [(1, "killed", 0, 5), (2, "finished", 4, 6)]


@pytest.mark.parametrize("more", [(), RESUME], ids=["start", "resume"])
def test_directories_that_cannot_have_a_run_are_refused_at_once(
    tmp_path: Path, orpo_here: Orpo, more: tuple[str, ...]
) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for name, code, message in (
        ("n" * 300, 3, "File name too long"),
        ("link", 2, "is a link to nowhere"),
        ("recipe.yaml", 2, "is a file"),
        ("recipe.yaml/run", 2, "recipe.yaml is a file"),
        ("full/", 2, "is not empty, and is not a run"),
    ):
        refused = orpo_here("train", recipe, *more, "--set", f"output_dir={tmp_path}/{name}")
        assert refused.returncode == code, refused.stderr
        assert message in refused.stderr
        assert "output_dir=DIR" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert sorted(tmp_path.rglob("*")) == before


def test_a_run_below_a_link_is_trained_resumed_and_merged(tmp_path: Path, orpo_here: Orpo) -> None:
    recipe = write_recipe(tmp_path, estimated=False, steps=1)
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    train = ("train", recipe, "--set", f"output_dir={tmp_path / 'run'}/")
    assert orpo_here(*train).returncode == 0
    assert "nothing to resume" in orpo_here(*train, *RESUME).stderr
    assert orpo_here("merge", tmp_path / "run").returncode == 0
    assert (tmp_path / "run").is_symlink()
    assert (tmp_path / "disk" / "merged" / "config.json").is_file()
