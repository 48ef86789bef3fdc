"""Sweep workflow (`orpo sweep`): train the planned trials, compare them, and write the winner and the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo_cli.atomic import atomic_write_text
from orpo_cli.errors import (
    DataError,
    HubError,
    HubRefused,
    Interrupted,
    MachineError,
    OrpoError,
    RunError,
    UsageError,
)
from orpo_cli.file_lock import lock_owner, try_lock
from orpo_cli.interruption import uninterrupted
from orpo_cli.launch.command import worker_command
from orpo_cli.recipe.load import load_recipe
from orpo_cli.report.console import Console
from orpo_cli.report.run_history import RunHistory
from orpo_cli.rundir import RunDir
from orpo_cli.sweep.optuna_sampler import Observation, propose
from orpo_cli.sweep.record import State, SweepDir, TrialState
from orpo_cli.sweep.results import Ranking, rank, winner_document
from orpo_cli.sweep.scheduler import Scheduler, Stopping, to_train
from orpo_cli.sweep.scores import Metric
from orpo_cli.sweep.trial_process import cuda_devices, slot_environments
from orpo_cli.sweep.trials import Trial, name_trials
from orpo_cli.sweep.view import SweepDisplay, result_table
from orpo_cli.sweep.winner import winner_recipe
from orpo_cli.workflows.sweep_plan import PlannedSweep, check_recipe, planned_trials

PREPARE = "--prepare"
ERRORS = {each.exit_code: each for each in (UsageError, MachineError, DataError, RunError, HubError, HubRefused)}


@dataclass(frozen=True)
class SweepResult:
    """Outcome of a sweep."""

    planned: PlannedSweep
    states: list[TrialState]
    ranking: Ranking
    winner: dict[str, Any] | None
    report: Path | None

    def as_dict(self) -> dict[str, Any]:
        """The document of --json."""
        sweep = self.planned.sweep
        failed = any(each.state is State.FAILED for each in self.states)
        trials = [{**each.as_json(), "run": str(sweep.run(each.trial))} for each in self.states]
        return {
            "status": "failed" if failed else "finished",
            "sweep": str(sweep.root),
            "trials": trials,
            "winner": self.winner,
            "common_pairs": self.ranking.common_pairs,
            "left_out": self.ranking.left_out,
            "report": self.report,
        }

    def raise_if_incomplete(self) -> None:
        """Raise RunError where trials have failed, Interrupted where they have ended before their last step for another reason.

        UsageError where only the recipe of the winner is missing.
        """
        for state, error, verb in ((State.FAILED, RunError, "failed"), (State.INTERRUPTED, Interrupted, "interrupted")):
            names = [each.trial.name for each in self.states if each.state is state]
            if names:
                raise error(
                    f"{len(names)} of {len(self.states)} trials {verb}: {', '.join(names)}. Logs: {self.planned.sweep.logs}.",
                    remedy="The same command tries them again, and trains only them.",
                )
        if self.winner is not None and self.winner["recipe"] is None:
            raise UsageError(
                f"the winner, {self.winner['trial']}, has no recipe: {self.planned.sweep.winner} is not written.",
                remedy=f"Restore the recipe of the sweep and repeat the command, which trains nothing again. The run of the winner "
                f"is complete: {self.winner['run']}",
            )


def run_sweep(planned: PlannedSweep, console: Console) -> SweepResult:
    """Train all trials that are not trained, compare them, and write the winner and the report.

    Raises KeyboardInterrupt after a signal: every trial has saved a checkpoint, and the same command continues.
    """
    request, sweep = planned.request, planned.sweep
    with _locked(sweep):
        states = planned_trials(planned)
        slots = slot_environments(request.jobs, _devices(planned))
        _introduce(planned, states, console)
        stopping = Stopping(request.metric, request.early_stop, request.stop_from)
        scheduler = Scheduler(
            sweep, planned.definition, states, planned.command(), slots, stopping,
            propose=lambda: _propose(planned, scheduler), check=lambda: check_recipe(planned),
        )  # fmt: skip
        if planned.adaptive or to_train(states, stopping):
            _prepare_in_child(slots[0], console)
        total = request.random if planned.adaptive and request.random else len(states)
        with SweepDisplay(console, states, scheduler.progress, request.metric, total) as display:
            scheduler.run(display)
        return _conclude(planned, scheduler, console)


def _devices(planned: PlannedSweep) -> list[str]:
    """The GPUs for the trials; empty where they train on the CPU. Raises UsageError for more jobs than GPUs."""
    jobs = planned.request.jobs
    if jobs == 1 or planned.loaded.recipe.training.use_cpu:
        return []
    devices = cuda_devices()
    if devices and jobs > len(devices):
        raise UsageError(
            f"--jobs {jobs}: there are {len(devices)} GPUs, and each trial takes one.",
            remedy=f"Use --jobs {len(devices)}.",
        )
    return devices


@contextmanager
def _locked(sweep: SweepDir) -> Iterator[None]:
    """Own the directory of the sweep. Raises UsageError where another process does."""
    try:
        sweep.root.mkdir(parents=True, exist_ok=True)
        lock = try_lock(sweep.lock)
    except OSError as error:
        raise MachineError(
            f"cannot write to {sweep.root}: {error.strerror or error}.",
            remedy="Choose another directory: --output DIR.",
        ) from error
    if lock is None:
        raise UsageError(
            f"{sweep.root}: {lock_owner(sweep.lock)} runs this sweep.",
            remedy="Wait for it, or choose another: --output DIR.",
        )
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):  # a sweep that has failed before its first trial leaves no directory
            sweep.root.rmdir()


def _introduce(planned: PlannedSweep, states: Sequence[TrialState], console: Console) -> None:
    """Print what is trained where, and what the sweep changes."""
    request = planned.request
    count = f"up to {request.random}" if planned.adaptive else str(len(states))
    keys = ", ".join(planned.space.parts)
    console.note(f"{planned.loaded.name}: {count} trials of {keys}, sweep in {planned.sweep.root}")
    done = sum(each.state in (State.FINISHED, State.STOPPED) for each in states)
    if done:
        console.note(f"{done} of them are trained already")
    for reason in planned.reasons:
        console.note(reason)
    if planned.loaded.recipe.dataset.eval is None:
        console.warn(
            "the recipe holds no pairs out (dataset.eval): no trial is stopped early, and no winner is chosen, because losses "
            "do not compare trials with another beta"
        )


def _prepare_in_child(environment: dict[str, str], console: Console) -> None:
    """Run ``prepare_trials`` in a process with the options of this command. Raises the error that it reports."""
    arguments = [*sys.argv[1:], PREPARE, "--json"]
    process: subprocess.Popen[str] | None = None
    try:
        with uninterrupted():
            process = subprocess.Popen(
                worker_command(arguments),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment},
            )  # fmt: skip
        output, _ = process.communicate()
    except BaseException:
        if process is not None:
            process.kill()
            process.wait()
        raise
    if process.returncode == 0:
        return
    try:
        document = json.loads(output)
    except ValueError:
        document = {"message": f"the preparation of the trials ended with exit code {process.returncode}."}
    error = ERRORS.get(process.returncode, RunError)(str(document["message"]), remedy=document.get("remedy"))
    error.is_reported = bool(output)  # by that process
    if output:
        console.document(document)
    raise error


def _propose(planned: PlannedSweep, scheduler: Scheduler) -> Trial | None:
    """The next trial of a sampler of Optuna; None where there are enough, or no new values."""
    request, states = planned.request, scheduler.states
    if not planned.adaptive or request.random is None or len(states) >= request.random:
        return None
    observed = [_observation(each, scheduler, request.metric) for each in states]
    values = propose(planned.space, request.seed, observed)
    return None if values is None else name_trials([values], [each.trial.name for each in states])[0]


def _observation(state: TrialState, scheduler: Scheduler, metric: Metric) -> Observation:
    scores = scheduler.progress(state.trial).scores
    over = state.state in (State.FINISHED, State.STOPPED)
    value = (state.evaluation or {}).get("value") if over else None
    return Observation(
        state.trial.values,
        value,
        complete=state.state is State.FINISHED,
        failed=state.state is State.FAILED or (over and value is None),
        step=scores[-1].step if scores else 0,
    )


def _conclude(planned: PlannedSweep, scheduler: Scheduler, console: Console) -> SweepResult:
    """Rank the trials, write winner.yaml, sweep.json and the report, and print the table."""
    request, sweep, states = planned.request, planned.sweep, scheduler.states
    ranking = rank(sweep, states, request.metric)
    winner = None
    if ranking.results:
        best = ranking.results[0]
        recipe = _write_winner(planned, ranking, console)
        winner = winner_document(best, request.metric, recipe, sweep.run(best.state.trial))
    sweep.write(planned.definition, states, winner)
    width = console.out.width if console.out.is_terminal else None
    console.result(result_table(states, ranking.results, scheduler.progress, request.metric, width))
    for line in ranking.warnings():
        console.warn(line)
    for line in ranking.findings():
        console.note(line)
    return SweepResult(planned, states, ranking, winner, _write_report(sweep, states, console))


def _write_winner(planned: PlannedSweep, ranking: Ranking, console: Console) -> Path | None:
    """Write winner.yaml; None where the recipe was edited during the sweep: then it would train something else."""
    path = planned.sweep.winner
    try:
        check_recipe(planned)
        text = _winner_text(planned, ranking)
    except UsageError as error:  # also RecipeError
        older = ", and the one that is there is of an earlier winner" if path.exists() else ""
        console.warn(f"{path} is not written{older}: {error}")
        return None
    atomic_write_text(path, text)
    return path


def _winner_text(planned: PlannedSweep, ranking: Ranking) -> str:
    request, best = planned.request, ranking.results[0]
    trial = load_recipe(request.recipe, [*request.overrides, *best.state.trial.overrides()])
    set_keys = [each.partition("=")[0].strip() for each in request.overrides]
    keys = [each for each in (*set_keys, *best.state.trial.values) if each not in ("name", "output_dir")]
    notes = [
        f"Winner of the sweep {planned.sweep.root}",
        *ranking.warnings(),
        *ranking.findings(),
        f"Trained there already: {planned.sweep.run(best.state.trial)}",
    ]
    return winner_recipe(trial, request.recipe, list(dict.fromkeys(keys)), planned.sweep, notes)


def _write_report(sweep: SweepDir, states: Sequence[TrialState], console: Console) -> Path | None:
    """Write the page of all trials that have a run; None where it cannot be written: the trials are complete all the same."""
    from orpo_cli.report.page import write_report

    histories = [RunHistory(run) for each in states if RunDir(run := sweep.run(each.trial)).is_run()]
    if not histories:
        return None
    try:
        sweep.report.parent.mkdir(exist_ok=True)
        write_report(histories, sweep.report)
    except (OSError, OrpoError) as error:
        console.warn(f"the report is not written: {error}")
        return None
    console.note(f"report: {sweep.report}")
    return sweep.report
