"""Trackers of a training (``report_to``): each gets every record of metrics.jsonl, and none can stop or delay the run.

The callbacks are transformers' own, so that the environment variables in its documentation have their effect. A thread for each
tracker calls them: a server may not answer, and MLflow and trackio keep their current run by thread. A tracker that fails is
switched off with one warning.
"""

from __future__ import annotations

import copy
import getpass
import hashlib
import io
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.integrations import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.integrations.integration_utils import is_kubeflow_available

from orpo_cli import interruption
from orpo_cli.errors import Problem
from orpo_cli.planning.plan import Plan
from orpo_cli.run_attempts import attempts_of
from orpo_cli.rundir import RunDir
from orpo_cli.secret_values import mask_secrets
from orpo_cli.training.metrics_log import TrainingObserver
from orpo_cli.training.tracker_runs import StartedRun, TrackedRun, start_run

START_SECONDS = 20  # how long the first step waits for trackers; a later one gets its metrics when it has started
FINISH_SECONDS = 60  # how long the end of the training waits until they have all metrics
STOP_SECONDS = 10  # the same after a signal or an error: a job scheduler kills the process soon
UPLOAD_SECONDS = 1800  # how long it waits for a tracker that uploads weights, at the end or after a checkpoint
MAX_WAITING = 10_000  # calls
POLL_SECONDS = 0.05
UPLOADING = {"clearml", "dagshub", "dvclive", "flyte", "neptune"}  # they may upload checkpoints
UPLOADING_BY = {"wandb": "WANDB_LOG_MODEL", "mlflow": "HF_MLFLOW_LOG_ARTIFACTS"}  # if this variable is set


def tracker_names(plan: Plan) -> list[str]:
    """The trackers of ``report_to``; for ``all`` those that are installed."""
    asked = plan.training.get("report_to") or []
    names = [asked] if isinstance(asked, str) else list(asked)
    if names == ["all"]:
        return list(get_available_reporting_integrations())
    names = [name for name in names if name != "none"]
    if is_kubeflow_available() and "kubeflow" not in names:  # as transformers does
        names.append("kubeflow")
    return names


class TrackersCallback(TrainerCallback):
    """Callback and context of the trackers of a run. It must begin before the callback that writes metrics.jsonl.

    ``record`` takes the records of metrics.jsonl.
    """

    def __init__(self, plan: Plan, rundir: RunDir, observer: TrainingObserver, from_step: int = 0) -> None:
        self.names = tracker_names(plan) if rundir.writes else []
        self.plan, self.rundir, self.observer, self.from_step = plan, rundir, observer, from_step
        self.trackers: list[_Tracker] = []
        self._restore = ExitStack()

    def __enter__(self) -> TrackersCallback:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._finish(failed=kind is not None, seconds=FINISH_SECONDS if kind is None else STOP_SECONDS)

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Start the trackers, and wait a short time for them."""
        if not self.names:
            return
        self._restore.enter_context(_standard_streams_of_trackers())
        run = tracked_run(self.plan, self.rundir, self.from_step)
        self.trackers = [_Tracker(name, run, args, state, kwargs) for name in self.names]
        self.observer.status("starting trackers", ", ".join(self.names))
        end = time.monotonic() + START_SECONDS
        for tracker in self.trackers:
            if not tracker.wait(end - time.monotonic()) and tracker.error is None:
                self._warn(tracker.name, f"has not started after {START_SECONDS} s; its metrics wait until it has.")
        self._report()

    def record(self, record: dict[str, Any]) -> None:
        """Pass on a record of metrics.jsonl. Events have no metrics."""
        if record.get("kind") != "event":
            for tracker in self.trackers:
                tracker.log(record)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Report trackers that have failed."""
        self._call("on_step_end", state, kwargs)

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Pass on the event."""
        self._call("on_evaluate", state, kwargs)

    def on_save(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Pass on the event, and wait where a tracker uploads the checkpoint."""
        uploading = [tracker for tracker in self.trackers if tracker.uploads and tracker.ready]
        self._wait(uploading, FINISH_SECONDS)
        self._call("on_save", state, kwargs)
        self._wait(uploading, UPLOAD_SECONDS)

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Finish the runs of the trackers."""
        interrupted = interruption.cause() is not None
        uploading = [tracker for tracker in self.trackers if tracker.uploads and not interrupted]
        self._wait(uploading, FINISH_SECONDS)  # one that does not answer is not worth the time of an upload
        self._call("on_train_end", state, kwargs)
        self._wait(uploading, UPLOAD_SECONDS)
        self._finish(failed=False, seconds=STOP_SECONDS if interrupted else FINISH_SECONDS)

    def _wait(self, trackers: list[_Tracker], seconds: float) -> None:
        """Wait until trackers have done all calls, and switch off those that have not."""
        end = time.monotonic() + seconds
        for tracker in trackers:
            if not tracker.wait(end - time.monotonic()) and tracker.error is None:
                tracker.error = TimeoutError(f"it has not taken all metrics after {seconds:.0f} s")
        self._report()

    def _call(self, event: str, state: TrainerState, kwargs: dict[str, Any]) -> None:
        for tracker in self.trackers:
            tracker.call(event, state, kwargs)
        self._report()

    def _finish(self, *, failed: bool, seconds: float) -> None:
        with self._restore:  # also where a second signal ends the wait
            self._wait([tracker for tracker in self.trackers if not tracker.ready], min(seconds, START_SECONDS))
            for tracker in self.trackers:
                tracker.submit(partial(tracker.finish, failed))
            self._wait(self.trackers, seconds)
            for tracker in self.trackers:
                tracker.stop()
            self.trackers = []

    def _report(self) -> None:
        """Say where a tracker shows the run, once it has started, and which trackers have failed."""
        for tracker in self.trackers:
            if tracker.ready and not tracker.announced:
                tracker.announced = True
                if tracker.started.message:
                    self.observer.note(f"{tracker.name}: {tracker.started.message}")
                if tracker.started.warning:
                    self._warn(tracker.name, f"{tracker.started.warning}.")
            if tracker.error is not None and not tracker.reported:
                tracker.reported = True
                message = " ".join(str(tracker.error).split()).rstrip(".") or type(tracker.error).__name__
                self._warn(tracker.name, f"is switched off: {message[:600]}.")

    def _warn(self, name: str, message: str) -> None:
        remedy = f"metrics.jsonl has every metric. Without {name}: --set training.report_to=none."
        problem = Problem(
            "tracker-failed", f"{name} {message}", "training.report_to", remedy=remedy, severity="warning"
        )
        self.observer.warn(problem)


class _Tracker:
    """Thread that calls transformers' callback of one tracker, in the order of the calls.

    ``ready``: it has started. ``error``: it has failed. ``uploads``: it may upload weights, for which the training waits.
    """

    def __init__(self, name: str, run: TrackedRun, args: Any, state: TrainerState, kwargs: dict[str, Any]) -> None:
        self.name, self.run = name, run
        self.error: BaseException | None = None
        self.announced = self.reported = False
        self.ready = False
        self.uploads = name in UPLOADING or bool(os.environ.get(UPLOADING_BY.get(name, "")))
        self.started = StartedRun()
        self._args, self._state, self._kwargs = args, copy.copy(state), kwargs
        self._class = INTEGRATION_TO_CALLBACK[name]
        self._callback: Any = None
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self.submit(self._start)
        self._thread.start()

    def submit(self, call: Callable[[], None]) -> None:
        """Have the thread call ``call`` after the earlier ones."""
        if self._calls.qsize() > MAX_WAITING and self.error is None:
            self.error = TimeoutError(f"it does not answer, and {MAX_WAITING:,} calls wait for it")
        if self.error is None:
            self._calls.put(call)

    def call(self, event: str, state: TrainerState, kwargs: dict[str, Any]) -> None:
        """Pass on an event of the Trainer, if the callback does something at it."""
        if getattr(self._class, event) is not getattr(TrainerCallback, event):
            state = copy.copy(state)
            self.submit(lambda: self._event(event, state, kwargs))

    def log(self, record: dict[str, Any]) -> None:
        """Pass on the numbers of a record of metrics.jsonl."""
        state = copy.copy(self._state)
        state.global_step, state.epoch = record["step"], record.get("epoch", state.epoch)
        logs = {name: value for name, value in record.items() if isinstance(value, int | float) and name != "step"}
        self.submit(lambda: self._event("on_log", state, {**self._kwargs, "logs": logs}))

    def wait(self, seconds: float) -> bool:
        """Wait until all calls are done; whether they are. Ctrl-C ends the wait."""
        done = threading.Event()
        self.submit(done.set)
        end = time.monotonic() + max(seconds, 10 * POLL_SECONDS)  # another tracker may have used up the time
        while self.error is None and not done.is_set() and (left := end - time.monotonic()) > 0:
            done.wait(min(left, POLL_SECONDS))
        return done.is_set()

    def finish(self, failed: bool) -> None:
        """End the tracker's run."""
        self.started.finish(failed)

    def stop(self) -> None:
        """Let the thread end, after the call in progress if it has failed."""
        self._calls.put(None)

    def _work(self) -> None:
        while self.error is None and (call := self._calls.get()) is not None:
            try:
                call()
            except BaseException as error:  # also SystemExit: no error of a tracker is one of the training
                self.error = error

    def _start(self) -> None:
        self.started = start_run(self.name, self.run)
        self._args = shown_arguments(self._args, self.run, self.started)
        self._callback = self._class(**self.started.callback)
        for event in ("on_init_end", "on_train_begin"):
            self._event(event, self._state, self._kwargs)
        self.ready = True

    def _event(self, event: str, state: TrainerState, kwargs: dict[str, Any]) -> None:
        """Call the callback with a control of its own: it cannot stop the training."""
        getattr(self._callback, event)(self._args, state, TrainerControl(), **kwargs)


def tracked_run(plan: Plan, rundir: RunDir, from_step: int) -> TrackedRun:
    """The training as trackers know it: named after the plan, with an id that its first attempt gives it."""
    attempts = attempts_of(rundir.latest_run())
    first = attempts[0] if attempts else {}
    origin = [str(first.get(key)) for key in ("started_at", "host", "pid")] + [plan.name, Path(plan.output_dir).name]
    folder = plan.training.get("logging_dir") or os.environ.get("TENSORBOARD_LOGGING_DIR")
    return TrackedRun(
        name=plan.training.get("run_name") or plan.name,
        id=hashlib.sha256("\n".join(origin).encode()).hexdigest()[:32],
        tags=plan.tags,
        project=plan.training.get("project"),
        config=mask_secrets(mask_secrets(plan.values(), plan.secrets)),
        folder=rundir.root,
        tensorboard=rundir.tensorboard if folder is None else Path(folder).expanduser(),
        from_step=from_step,
        attempt=max(1, len(attempts)),
    )


def shown_arguments(args: Any, run: TrackedRun, started: StartedRun) -> Any:
    """The Trainer's arguments as trackers see them: without secrets, and with the plan as their dictionary."""
    shown = copy.copy(args)
    for name, value in vars(args).items():
        if isinstance(value, str | list | dict) and (masked := mask_secrets(value)) != value:
            setattr(shown, name, masked)
    config = run.config if started.config is None else started.config
    shown.run_name = started.name or run.name
    shown.to_dict = shown.to_sanitized_dict = lambda: dict(config)
    shown.to_json_string = lambda: json.dumps(config, indent=2, ensure_ascii=False)
    return shown


@contextmanager
def _standard_streams_of_trackers() -> Iterator[None]:
    """Context in which trackers can ask for nothing, and print to standard error: standard output is for the result."""
    before = sys.stdin, sys.stdout, getpass.getpass
    sys.stdin, sys.stdout, getpass.getpass = io.StringIO(), sys.stderr, _refuse_prompt
    try:
        yield
    finally:
        sys.stdin, sys.stdout, getpass.getpass = before


def _refuse_prompt(*_: Any, **__: Any) -> str:
    raise EOFError("it asks for a key or a password; log in with its own command before the training")
