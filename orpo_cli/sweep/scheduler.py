"""Scheduler of a sweep: starts trials, watches their evaluations, stops those that are behind, and records every change.

A trial is compared with the best other one after the same fraction of its steps. One that is worse by more than chance explains is
stopped with a checkpoint; its learning-rate schedule stays the one of a complete training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from orpo_cli import interruption
from orpo_cli.errors import MachineError, UsageError
from orpo_cli.run_attempts import FINISHED
from orpo_cli.run_lock import live_owner
from orpo_cli.rundir import RunDir
from orpo_cli.sweep.record import Definition, State, SweepDir, TrialState
from orpo_cli.sweep.scores import Metric, ProgressReader, Score, TrialProgress, final_score, is_worse
from orpo_cli.sweep.trial_process import INTERRUPTED_CODE, KILL_SECONDS, TrialCommand, TrialProcess, exit_reason
from orpo_cli.sweep.trials import Trial

POLL_SECONDS = 0.5


class Reporter(Protocol):
    """Receiver of what happens in a sweep."""

    def note(self, text: str) -> None:
        """Show a message."""

    def started(self, state: TrialState) -> None:
        """Show that a trial is started."""

    def evaluated(self, state: TrialState, score: Score) -> None:
        """Show a new evaluation of a trial."""

    def ended(self, state: TrialState) -> None:
        """Show how a trial has ended."""


@dataclass(frozen=True)
class Stopping:
    """When trials are stopped early. ``from_fraction``: of their steps; before, none is."""

    metric: Metric
    enabled: bool
    from_fraction: float


def to_train(states: Sequence[TrialState], stopping: Stopping) -> list[TrialState]:
    """The trials that are not trained to their end; those that were stopped early only where none is."""
    done = (State.FINISHED, State.STOPPED) if stopping.enabled else (State.FINISHED,)
    return [each for each in states if each.state not in done]


class Scheduler:
    """Scheduler of one command. ``slots``: the variables of each trial at the same time.

    ``propose``: a further trial, or None. ``check``: raises an error where no trial may be started any more.
    """

    def __init__(
        self,
        sweep: SweepDir,
        definition: Definition,
        states: list[TrialState],
        command: TrialCommand,
        slots: Sequence[dict[str, str]],
        stopping: Stopping,
        propose: Callable[[], Trial | None] = lambda: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.sweep, self.definition, self.states, self.command = sweep, definition, states, command
        self.stopping, self.propose, self.check = stopping, propose, check
        self.reporter: Reporter | None = None
        self.free = list(slots)
        self.running: dict[str, tuple[TrialState, TrialProcess, dict[str, str]]] = {}
        self.readers: dict[str, ProgressReader] = {}
        self.seen: dict[str, int] = {}  # evaluations of each trial that were compared
        self.waiting_for: set[str] = set()

    def run(self, reporter: Reporter) -> None:
        """Train all trials that are not trained. Raises KeyboardInterrupt after a signal: every trial has saved a checkpoint."""
        self.reporter = reporter
        queue = self._queue()
        self.record()
        try:
            with interruption.until_complete(
                lambda name: reporter.note(
                    f"{name}: the trials save a checkpoint and stop; Ctrl-C again stops them at once"
                )
            ):
                while True:
                    self._take_ended()
                    if interruption.cause() is not None:
                        for _, process, _ in self.running.values():
                            process.stop()
                        queue = []
                    elif self.free:
                        self._start_next(queue)
                    self._compare()
                    if not self.running and not queue:
                        break
                    time.sleep(POLL_SECONDS)
        finally:
            self._end_running()

    def progress(self, trial: Trial) -> TrialProgress:
        """How far a trial has trained."""
        reader = self.readers.get(trial.name)
        if reader is None:
            reader = self.readers[trial.name] = ProgressReader(self.sweep.run(trial))
        return reader.read()

    def record(self) -> None:
        """Write sweep.json."""
        self.sweep.write(self.definition, self.states, None)

    def _queue(self) -> list[TrialState]:
        """The trials to train, after the states are set to those of the run directories."""
        for state in self.states:
            status = _run_status(self.sweep, state.trial)
            if status == FINISHED:
                self._finish(state)
            elif state.state is State.FINISHED or status is None:
                state.state, state.reason, state.evaluation = State.WAITING, None, None  # its run was removed
        queue = to_train(self.states, self.stopping)
        for each in queue:
            each.state, each.reason = State.WAITING, None
        for state in self.states:
            self.seen[state.trial.name] = len(self.progress(state.trial).scores)
        return queue

    def _start_next(self, queue: list[TrialState]) -> None:
        if not queue and (trial := self.propose()) is not None:
            self.states.append(TrialState(trial))
            queue.append(self.states[-1])
        for state in queue:
            owner = live_owner(self.sweep.run(state.trial))
            if owner is None:
                queue.remove(state)
                self._start(state)
                return
            if state.trial.name not in self.waiting_for:
                self.waiting_for.add(state.trial.name)
                self._report.note(f"{state.trial.name}: waiting for {owner}, which still trains it")

    def _start(self, state: TrialState) -> None:
        self.check()
        slot = self.free.pop(0)
        arguments = self.command.arguments(state.trial, self.sweep)
        state.state, state.reason = State.RUNNING, None
        self.record()  # before the process: what runs is in the record
        process = TrialProcess(arguments, slot, self.sweep.log(state.trial))
        self.running[state.trial.name] = state, process, slot
        self._report.started(state)

    def _take_ended(self) -> None:
        for name, (state, process, slot) in list(self.running.items()):
            code = process.exit_code()
            if code is None:
                continue
            self._report_evaluations(state)
            del self.running[name]
            self.free.append(slot)
            state.seconds += process.seconds
            self._set_end(state, process, code)
            self.record()
            self._report.ended(state)

    def _set_end(self, state: TrialState, process: TrialProcess, code: int) -> None:
        if code == 0 or _run_status(self.sweep, state.trial) == FINISHED:
            self._finish(state)
            return
        scores = self.progress(state.trial).scores
        state.evaluation = scores[-1].as_json(self.stopping.metric) if scores else None
        if state.state is State.STOPPED:  # by this sweep; the reason is set
            return
        if code == INTERRUPTED_CODE or (process.told_to_stop and code < 0):  # also before it handles signals
            state.state, state.reason = State.INTERRUPTED, interruption.cause() or process.error()
        else:
            state.state, state.reason = State.FAILED, exit_reason(code, process.error())

    def _finish(self, state: TrialState) -> None:
        state.state, state.reason = State.FINISHED, None
        state.steps = self.progress(state.trial).steps
        score = final_score(self.sweep.run(state.trial))
        state.evaluation = None if score is None else score.as_json(self.stopping.metric)

    def _compare(self) -> None:
        """Report new evaluations, and stop the trials that are behind."""
        for state, process, _ in self.running.values():
            for score in self._report_evaluations(state):
                if not process.told_to_stop:
                    self._stop_if_worse(state, process, score)

    def _report_evaluations(self, state: TrialState) -> Sequence[Score]:
        """Report the evaluations since the last call, and return them."""
        progress = self.progress(state.trial)
        new = progress.scores[self.seen.get(state.trial.name, 0) :]
        state.steps, self.seen[state.trial.name] = progress.steps, len(progress.scores)
        for score in new:
            self._report.evaluated(state, score)
        return new

    def _stop_if_worse(self, state: TrialState, process: TrialProcess, score: Score) -> None:
        rule, metric = self.stopping, self.stopping.metric
        if not rule.enabled or not rule.from_fraction <= score.fraction < 1:
            return
        others = {
            each.trial.name: other
            for each in self.states
            if each is not state
            and each.state is not State.FAILED
            and (other := self.progress(each.trial).score_until(score.fraction)) is not None
            and other.pair_scores.keys() == score.pair_scores.keys()  # a key may change which pairs are held out
        }
        if not others:
            return
        best = max(others, key=lambda name: others[name].sort_key(metric))
        if is_worse(score, others[best], metric, len(others)):
            state.state = State.STOPPED
            state.reason = (
                f"{metric.value} {score.value(metric):.3f} at step {score.step}, below "
                f"{others[best].value(metric):.3f} of {best} by more than chance explains"
            )
            self.record()
            process.stop()

    def _end_running(self) -> None:
        """End the trials that run where the loop has ended by an error or by a second Ctrl-C; record their states."""
        at_once = interruption.was_raised()  # not for an error: then the trials have the time that a checkpoint takes
        for _, process, _ in self.running.values():
            if at_once:
                process.stop_at_once()
            else:
                process.stop()
        for _, process, _ in self.running.values():
            process.wait(KILL_SECONDS if at_once else None)
        if self.running:
            with suppress(MachineError, OSError):  # a full disk may be the error
                self._take_ended()

    @property
    def _report(self) -> Reporter:
        assert self.reporter is not None
        return self.reporter


def _run_status(sweep: SweepDir, trial: Trial) -> str | None:
    """The status in the run of a trial; None where it has none."""
    rundir = RunDir(sweep.run(trial))
    try:
        return rundir.status() if rundir.is_run() else None
    except (UsageError, MachineError):  # damaged: `orpo train --resume auto` repairs it
        return "damaged"
