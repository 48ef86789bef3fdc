"""Signals in the phases of a training: real signals, sent to real processes at known points. tests/faults has all pairs."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from support.forked_command import ForkedCommand, StopPoint, interrupt_at, run_here
from support.signal_phases import (
    PHASES,
    assert_interrupted,
    check_signal,
    checkpoints,
    digest,
    resume,
    signal_recipe,
    status,
    train_command,
)

INT, TERM, HUP, USR1, USR2 = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2
SIGNALS = (TERM, HUP, INT, USR1, USR2)
QUICK = ("run directory", "model", "step", "evaluation", "checkpoint", "final save")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return signal_recipe(tmp_path_factory.mktemp("signals"))


@pytest.fixture(scope="module", autouse=True)
def uninterrupted(recipe: Path) -> str:
    """The digest of the weights of a run without signals, which also loads the libraries for the forks."""
    run = recipe.parent / "uninterrupted"
    assert run_here(*train_command(recipe, run)) == 0
    return digest(run)


@pytest.mark.parametrize(
    ("phase", "number"),
    [
        pytest.param(phase, SIGNALS[index % len(SIGNALS)], marks=[] if phase in QUICK else pytest.mark.slow)
        for index, phase in enumerate(PHASES)
    ],
)
def test_a_signal_leaves_a_state_from_which_the_same_weights_are_trained(
    tmp_path: Path, recipe: Path, uninterrupted: str, phase: str, number: signal.Signals
) -> None:
    check_signal(recipe, tmp_path, phase, number, uninterrupted)


@pytest.mark.parametrize("numbers", [(TERM, TERM, HUP, TERM), (INT, TERM)])
def test_a_second_sigterm_never_cuts_a_checkpoint_short(
    tmp_path: Path, recipe: Path, numbers: tuple[signal.Signals, ...]
) -> None:
    ended = interrupt_at(tmp_path, train_command(recipe, tmp_path / "run"), PHASES["checkpoint"].stop, *numbers)
    assert_interrupted(*ended, numbers[0].name, "checkpoint-2")
    assert checkpoints(tmp_path / "run") == ["checkpoint-2"]


@pytest.mark.parametrize(
    ("phase", "kept"),
    [
        ("step", ["checkpoint-2"]),
        ("checkpoint", []),
        ("final save", ["checkpoint-2", "checkpoint-4", "checkpoint-6"]),
    ],
)
def test_a_second_ctrl_c_stops_at_once_and_leaves_nothing_incomplete(
    tmp_path: Path, recipe: Path, uninterrupted: str, phase: str, kept: list[str]
) -> None:
    run = tmp_path / "run"
    ended = interrupt_at(tmp_path, train_command(recipe, run), PHASES[phase].stop, INT, INT)
    assert_interrupted(*ended, "SIGINT", "--resume auto")
    assert status(run) == "interrupted"
    assert checkpoints(run) == kept
    assert not [path for path in run.rglob(".*") if path.is_dir()]
    resume(recipe, run, tmp_path)
    assert digest(run) == uninterrupted


def test_a_resumed_run_is_kept_when_it_is_interrupted_before_its_first_step(
    tmp_path: Path, recipe: Path, uninterrupted: str
) -> None:
    run = tmp_path / "run"
    interrupt_at(tmp_path, train_command(recipe, run), PHASES["step"].stop, TERM)
    ended = interrupt_at(tmp_path, train_command(recipe, run, "--resume", "auto"), PHASES["model"].stop, HUP)
    assert_interrupted(*ended, "SIGHUP", "--resume auto")
    assert status(run) == "interrupted"
    resume(recipe, run, tmp_path)
    assert digest(run) == uninterrupted


def test_a_signal_that_was_ignored_at_the_start_stays_ignored(tmp_path: Path, recipe: Path) -> None:
    arguments = train_command(recipe, tmp_path / "run")
    command = ForkedCommand(tmp_path, arguments, stop=StopPoint(PHASES["step"].stop.function), ignored=[HUP, INT])
    command.wait_for_stop()
    command.send(HUP, INT)
    command.go_on()
    assert command.wait() == 0, command.stderr
    assert status(tmp_path / "run") == "finished"


@pytest.mark.parametrize("numbers", [(TERM,), (TERM, TERM, HUP), (INT,)])
def test_a_signal_to_all_processes_leaves_the_workers_of_the_data_loader(
    tmp_path: Path, recipe: Path, numbers: tuple[signal.Signals, ...]
) -> None:
    """A scheduler, and Ctrl-C in a terminal, send a signal to the workers too; torch raises an error where one ends."""
    workers = ("--set", "training.dataloader_num_workers=2")
    arguments = train_command(recipe, tmp_path / "run", *workers)
    command = ForkedCommand(tmp_path, arguments, stop=PHASES["step"].stop)
    command.wait_for_stop()
    for number in numbers:
        os.killpg(command.process, number)
        time.sleep(0.05)
    command.go_on()
    assert_interrupted(command.wait(), command.stderr, numbers[0].name, "checkpoint-3")
    assert checkpoints(tmp_path / "run") == ["checkpoint-2", "checkpoint-3"]
