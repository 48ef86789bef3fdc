"""Scheduler of a sweep, with real processes that write the records of a run: order, early stop, failures, signals, resume."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import scripted_trial

from orpo_cli import interruption
from orpo_cli.errors import UsageError
from orpo_cli.sweep import trial_process
from orpo_cli.sweep.record import Definition, SweepDir, TrialState
from orpo_cli.sweep.results import rank
from orpo_cli.sweep.scheduler import Scheduler, Stopping
from orpo_cli.sweep.scores import Metric, Score
from orpo_cli.sweep.trial_process import TrialCommand
from orpo_cli.sweep.trials import Trial

GOOD, FAIR, BAD = 0.95, 0.9, 0.3


class Recorder:
    """Reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.on_evaluation: Callable[[], None] = lambda: None

    def note(self, text: str) -> None:
        self.lines.append(text)

    def started(self, state: TrialState) -> None:
        self.lines.append(f"started {state.trial.name}")

    def evaluated(self, state: TrialState, score: Score) -> None:
        self.lines.append(f"evaluated {state.trial.name} {score.step}")
        self.on_evaluation()

    def ended(self, state: TrialState) -> None:
        self.lines.append(f"{state.state.value} {state.trial.name}")


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    program = [sys.executable, "-S", scripted_trial.__file__]
    monkeypatch.setattr(trial_process, "worker_command", lambda arguments: [*program, *arguments])
    monkeypatch.setattr("orpo_cli.sweep.scheduler.POLL_SECONDS", 0.01)


def trial(beta: float) -> Trial:
    return Trial(f"beta={beta}", {"training.beta": beta})


def scheduler(
    folder: Path, *betas: float, stop: bool = True, slots: tuple[dict[str, str], ...] = ({},), **options: Any
) -> Scheduler:
    sweep = SweepDir(folder)
    states = sweep.read()[1] if sweep.is_sweep() else [TrialState(trial(each)) for each in betas]
    definition = Definition("recipe.yaml", [], {}, {}, None, None, None, "accuracy", stop, 0.25)
    stopping = Stopping(options.pop("metric", Metric.ACCURACY), stop, 0.25)
    command = TrialCommand("recipe.yaml", ["training.seed=1"])
    return Scheduler(sweep, definition, states, command, slots, stopping, **options)


def script(monkeypatch: pytest.MonkeyPatch, **trials: dict[str, Any]) -> None:
    monkeypatch.setenv("SCRIPTED_TRIALS", json.dumps({f"beta={name}": each for name, each in trials.items()}))


def states(folder: Path) -> dict[str, str]:
    return {each["name"]: each["state"] for each in json.loads((folder / "sweep.json").read_text())["trials"]}


def starts(folder: Path, beta: float) -> list[dict[str, Any]]:
    path = folder / "trials" / f"beta={beta}" / "starts"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def last_step(folder: Path, beta: float) -> int:
    return int(json.loads((folder / "trials" / f"beta={beta}" / "run.json").read_text())["steps"])


def test_trials_are_trained_one_after_the_other_and_the_best_is_found(tmp_path: Path) -> None:
    one, recorder = scheduler(tmp_path, FAIR, GOOD), Recorder()
    one.run(recorder)
    assert states(tmp_path) == {"beta=0.9": "finished", "beta=0.95": "finished"}
    assert recorder.lines.index("finished beta=0.9") < recorder.lines.index("started beta=0.95")
    assert [each for each in recorder.lines if each.startswith("evaluated beta=0.9 ")] == [
        f"evaluated beta=0.9 {step}" for step in (2, 4, 6, 8)
    ]
    ranking = rank(one.sweep, one.states, Metric.ACCURACY)
    ranked = ranking.results
    assert [each.name for each in ranked] == ["beta=0.95", "beta=0.9"]
    assert ranked[0].score.accuracy == 0.95
    assert ranked[1].comparison is not None
    assert (ranked[1].comparison.won, ranked[1].comparison.lost) == (0, 2)
    assert not ranked[1].is_worse  # two of 40 pairs
    assert "do not tell it apart from 1 other trial" in ranking.findings()[1]


def test_the_command_of_a_trial_has_its_values_and_place(tmp_path: Path) -> None:
    scheduler(tmp_path, GOOD).run(Recorder())
    arguments = starts(tmp_path, GOOD)[0]["arguments"]
    run = str(tmp_path / "trials" / "beta=0.95")
    assert arguments[:2] == ["train", "recipe.yaml"]
    settings = [after for before, after in itertools.pairwise(arguments) if before == "--set"]
    assert settings == ["training.seed=1", "training.beta=0.95", "name=beta=0.95", f"output_dir={run}"]
    place = ["--sweep", str(tmp_path), "--trial", "beta=0.95", "--parent", str(os.getpid())]
    assert arguments[-8:] == ["--resume", "auto", *place]
    assert (tmp_path / "logs" / "beta=0.95.log").exists()


def test_a_trial_that_is_behind_is_stopped_and_its_process_may_save(tmp_path: Path) -> None:
    one, recorder = scheduler(tmp_path, GOOD, BAD), Recorder()
    one.run(recorder)
    assert states(tmp_path) == {"beta=0.95": "finished", "beta=0.3": "stopped"}
    assert last_step(tmp_path, BAD) < scripted_trial.STEPS
    assert json.loads((tmp_path / "trials" / "beta=0.3" / "run.json").read_text())["status"] == "interrupted"
    reason = one.states[1].reason or ""
    assert reason.startswith("accuracy 0.200 at step 2, below 0.600")
    assert "of beta=0.95 by more than chance explains" in reason
    assert [each.name for each in rank(one.sweep, one.states, Metric.ACCURACY).results] == ["beta=0.95"]


def test_a_trial_is_stopped_on_the_margin_where_that_is_the_metric(tmp_path: Path) -> None:
    one = scheduler(tmp_path, GOOD, BAD, metric=Metric.MARGIN)
    one.run(Recorder())
    assert states(tmp_path) == {"beta=0.95": "finished", "beta=0.3": "stopped"}
    assert (one.states[1].reason or "").startswith("margin -0.")


def test_a_trial_is_stopped_by_a_better_one_that_trains_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, **{"0.95": {"seconds": 0.03}, "0.3": {"seconds": 0.1}})
    one = scheduler(tmp_path, BAD, GOOD, slots=({"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}))
    one.run(Recorder())
    assert states(tmp_path) == {"beta=0.3": "stopped", "beta=0.95": "finished"}
    assert {starts(tmp_path, each)[0]["CUDA_VISIBLE_DEVICES"] for each in (GOOD, BAD)} == {"0", "1"}


@pytest.mark.parametrize("shift", [10, 40])
def test_trials_that_hold_out_different_pairs_are_compared_on_the_common_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: int
) -> None:
    script(monkeypatch, **{"0.3": {"first_pair": shift}})
    one = scheduler(tmp_path, GOOD, BAD)
    one.run(Recorder())
    assert states(tmp_path) == {"beta=0.95": "finished", "beta=0.3": "finished"}  # none is stopped
    ranking = rank(one.sweep, one.states, Metric.ACCURACY)
    assert ranking.common_pairs == scripted_trial.PAIRS - shift
    if ranking.common_pairs:
        assert {each.score.pairs for each in ranking.results} == {30}
        assert [each.score.accuracy for each in ranking.results] == [28 / 30, 12 / 30]
        assert ranking.warnings()[0].endswith("they are compared on the 30 that all hold out")
    else:
        assert ranking.results == []
        assert ranking.warnings() == ["the trials hold out different pairs: no winner is chosen"]


def test_no_trial_is_stopped_without_early_stop_and_a_stopped_one_is_then_completed(tmp_path: Path) -> None:
    scheduler(tmp_path, GOOD, BAD).run(Recorder())
    assert states(tmp_path)["beta=0.3"] == "stopped"
    recorder = Recorder()
    scheduler(tmp_path, stop=False).run(recorder)
    assert states(tmp_path) == {"beta=0.95": "finished", "beta=0.3": "finished"}
    assert len(starts(tmp_path, GOOD)) == 1
    assert "started beta=0.95" not in recorder.lines


def test_a_failed_trial_ends_no_other_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, **{"0.95": {"fail": True}})
    one = scheduler(tmp_path, GOOD, FAIR)
    one.run(Recorder())
    assert states(tmp_path) == {"beta=0.95": "failed", "beta=0.9": "finished"}
    assert one.states[0].reason == "the data is gone"
    assert "Restore it" in (tmp_path / "logs" / "beta=0.95.log").read_text()
    script(monkeypatch)
    scheduler(tmp_path).run(Recorder())
    assert states(tmp_path) == {"beta=0.95": "finished", "beta=0.9": "finished"}
    assert len(starts(tmp_path, FAIR)) == 1


def test_a_killed_trial_ends_no_other_and_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, **{"0.95": {"kill_at": 4}})
    one = scheduler(tmp_path, GOOD, FAIR)
    one.run(Recorder())
    assert states(tmp_path) == {"beta=0.95": "failed", "beta=0.9": "finished"}
    assert one.states[0].reason == "killed by SIGKILL"
    scheduler(tmp_path).run(Recorder())
    assert states(tmp_path) == {"beta=0.95": "finished", "beta=0.9": "finished"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_trials_save_and_the_same_command_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    script(monkeypatch, **{"0.95": {"seconds": 0.1}})
    restore = interruption.install()
    try:
        interruption.command_started()
        recorder = Recorder()

        def interrupt() -> None:
            recorder.on_evaluation = lambda: None  # once: a second Ctrl-C stops at once
            os.kill(os.getpid(), number)

        recorder.on_evaluation = interrupt
        with pytest.raises(KeyboardInterrupt):
            scheduler(tmp_path, GOOD, FAIR).run(recorder)
    finally:
        restore()
    assert states(tmp_path) == {"beta=0.95": "interrupted", "beta=0.9": "waiting"}
    step = last_step(tmp_path, GOOD)
    assert 0 < step < scripted_trial.STEPS
    assert any("save a checkpoint" in line for line in recorder.lines)
    scheduler(tmp_path).run(Recorder())
    assert states(tmp_path) == {"beta=0.95": "finished", "beta=0.9": "finished"}
    metrics = [json.loads(line) for line in (tmp_path / "trials/beta=0.95/metrics.jsonl").read_text().splitlines()]
    assert [each["step"] for each in metrics if each["kind"] == "train"] == list(range(1, scripted_trial.STEPS + 1))


def test_a_second_ctrl_c_ends_all_trials_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, **{"0.95": {"seconds": 30}, "0.9": {"seconds": 30}})  # a step that takes long
    restore = interruption.install()
    try:
        interruption.command_started()
        recorder, began = Recorder(), time.monotonic()

        def interrupt_twice() -> None:
            while len(list(tmp_path.glob("trials/*/metrics.jsonl"))) < 2:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt_twice).start()
        with pytest.raises(KeyboardInterrupt):
            scheduler(tmp_path, GOOD, FAIR, slots=({}, {})).run(recorder)
    finally:
        restore()
    assert time.monotonic() - began < 25
    assert states(tmp_path) == {"beta=0.95": "interrupted", "beta=0.9": "interrupted"}


def test_a_trial_whose_process_still_trains_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owners = iter(["process 7 on a host", "process 7 on a host"])
    monkeypatch.setattr("orpo_cli.sweep.scheduler.live_owner", lambda run: next(owners, None))
    recorder = Recorder()
    scheduler(tmp_path, GOOD).run(recorder)
    assert recorder.lines[0] == "beta=0.95: waiting for process 7 on a host, which still trains it"
    assert states(tmp_path) == {"beta=0.95": "finished"}


def test_a_run_that_finished_before_the_sweep_was_killed_is_not_trained_again(tmp_path: Path) -> None:
    scheduler(tmp_path, GOOD).run(Recorder())
    record = tmp_path / "sweep.json"
    record.write_text(record.read_text().replace('"finished"', '"running"'))
    scheduler(tmp_path).run(Recorder())
    assert states(tmp_path) == {"beta=0.95": "finished"}
    assert len(starts(tmp_path, GOOD)) == 1


def test_a_removed_run_is_trained_again(tmp_path: Path) -> None:
    import shutil

    scheduler(tmp_path, GOOD).run(Recorder())
    shutil.rmtree(tmp_path / "trials" / "beta=0.95")
    scheduler(tmp_path).run(Recorder())
    assert states(tmp_path) == {"beta=0.95": "finished"}
    assert last_step(tmp_path, GOOD) == scripted_trial.STEPS


def test_trials_are_proposed_one_by_one(tmp_path: Path) -> None:
    proposals = iter([trial(FAIR), trial(GOOD)])
    one = scheduler(tmp_path, propose=lambda: next(proposals, None))
    one.run(Recorder())
    assert states(tmp_path) == {"beta=0.9": "finished", "beta=0.95": "finished"}


def test_an_error_between_trials_lets_the_running_one_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, **{"0.95": {"seconds": 0.1}})
    checks = iter([None, UsageError("the recipe has changed")])

    def check() -> None:
        if error := next(checks, None):
            raise error

    one = scheduler(tmp_path, GOOD, FAIR, slots=({}, {}), check=check)
    with pytest.raises(UsageError):
        one.run(Recorder())
    assert states(tmp_path) == {"beta=0.95": "interrupted", "beta=0.9": "waiting"}


def test_slots_share_the_cores_or_have_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(trial_process, "usable_cpus", lambda: 8)
    assert trial_process.slot_environments(1, ["0", "1"]) == [{}]
    assert trial_process.slot_environments(2, ["3", "5"]) == [
        {"CUDA_VISIBLE_DEVICES": "3"},
        {"CUDA_VISIBLE_DEVICES": "5"},
    ]
    assert trial_process.slot_environments(3, []) == [{"OMP_NUM_THREADS": "2"}] * 3
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert trial_process.slot_environments(2, []) == [{"OMP_NUM_THREADS": "2"}] * 2
