"""Agent that starts the processes of this machine and waits for them: torch's elastic agent, without restarts.

Torch's own gives the other processes 30 seconds after a failure, and ends them at a signal although they save a checkpoint.
This one forwards the first signal of the command once, and waits for what the ranks do about it; after a failure it ends the
others soon, because they wait for a rank that is gone.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs, SubprocessContext
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

from orpo_cli import interruption
from orpo_cli.errors import Interrupted, RunError
from orpo_cli.launch.control import Control, StoreLost
from orpo_cli.launch.failure import FailureRecord, choose_failure, killed_record

LOADING_GRACE_SECONDS = 2  # for a rank that has trained nothing
GRACE_SECONDS = 15  # for a rank that publishes a complete checkpoint; a job ends within 30 seconds of a failure
FAILED_RANK_SECONDS = 5.0  # in which a rank that has recorded its failure ends by itself
# Torch installs handlers in the parent, and this signal, which nobody sends, keeps it from replacing those of the command.
UNUSED_SIGNAL = "SIGURG"
LOGGER, EVENTS = "torch.distributed.elastic", "torchelastic-events-null"


@dataclass(frozen=True)
class LaunchRequest:
    """Processes to start on this machine: the command of each, and how they meet those of other machines.

    ``variables`` are added to the environment of each. ``seconds``: how long to wait for the other machines.
    """

    command: Sequence[str]
    processes: int
    address: str
    port: int
    machine_rank: int = 0
    machines: int = 1
    variables: Mapping[str, str] = field(default_factory=dict)
    monitor_interval: float = 0.1
    seconds: int = 900


@dataclass(frozen=True)
class Outcome:
    """How the processes ended: the failure to report (None: all succeeded), and the last step of any rank that failed."""

    failure: FailureRecord | None
    step: int = 0


class _NoFiles(LogsSpecs):
    """Output of the ranks: where that of the parent goes. A rank redirects its own."""

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        none = dict.fromkeys(envs, "")
        return LogsDest(none, none, {}, {}, none)

    @property
    def root_log_dir(self) -> str:
        return ""


class Agent(LocalElasticAgent):
    """Agent of this machine. ``killed``: exit codes of the processes that a signal ended which was not the agent's."""

    def __init__(self, spec: WorkerSpec, control: Control, variables: Mapping[str, str]) -> None:
        super().__init__(spec, _NoFiles())
        self.control, self.variables = control, variables
        self.killed: dict[int, FailureRecord] = {}
        self._forwarded = False
        self._failed_at: float | None = None
        self._closed = self._noted = False

    def _set_local_rank_env(self, worker_env: dict[str, Any], local_rank: int, spec: WorkerSpec) -> None:
        super()._set_local_rank_env(worker_env, local_rank, spec)
        worker_env.update(self.variables)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        with interruption.uninterrupted():  # no process is left that the agent does not know
            started: dict[int, Any] = super()._start_workers(worker_group)
        close = self._processes.close

        def close_soon(death_sig: signal.Signals | None = None, timeout: int = 0) -> None:
            self._note_killed()
            close(death_sig, self._grace_seconds())

        self._processes.close = close_soon  # type: ignore[method-assign]  # torch calls it with 30 seconds
        return started

    def _grace_seconds(self) -> int:
        with suppress(StoreLost):
            return GRACE_SECONDS if self.control.has_begun() else LOADING_GRACE_SECONDS
        return GRACE_SECONDS

    @property
    def _processes(self) -> SubprocessContext:
        context = self._pcontext
        assert isinstance(context, SubprocessContext)
        return context

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        if interruption.cause() and not self._forwarded:
            self._forwarded = True
            self._forward(interruption.cause() or "")
        self._end_after_failure()
        result: RunResult = super()._monitor_workers(worker_group)
        return result

    def _forward(self, cause: str) -> None:
        """Send the signal of the command to each rank, once: a second one would cut a save short."""
        number = getattr(signal, cause, signal.SIGTERM)
        for pid in self._processes.pids().values():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _end_after_failure(self) -> None:
        """End the processes of this machine some seconds after a rank of any machine has failed."""
        if self._failed_at is None:
            try:
                failed = self.control.first_failure() is not None
            except StoreLost:  # machine 0 is gone
                failed = True
            self._failed_at = time.monotonic() if failed else None
        elif not self._closed and time.monotonic() - self._failed_at > FAILED_RANK_SECONDS:
            self._closed = True
            self._processes.close()

    def _note_killed(self) -> None:
        """Remember which processes a signal has ended, before the agent sends signals itself."""
        if self._noted:
            return
        self._noted = True
        for local_rank, handler in self._processes.subprocess_handlers.items():
            code = handler.proc.poll()
            stopped = self._forwarded and code != -signal.SIGKILL  # before it could handle the signal of the command
            if code is not None and code < 0 and not stopped:
                rank = self._worker_group.workers[local_rank].global_rank
                self.killed[rank] = killed_record(rank, handler.proc.pid, -code)
                with suppress(StoreLost):
                    self.control.record_failure(self.killed[rank])  # for other machines


def launch_workers(request: LaunchRequest, control: Control, world_size: int) -> Outcome:
    """Start the processes of this machine, wait until all have ended, and say how.

    To be called inside ``interruption.until_complete``: the first signal to this process is forwarded to them, and a second
    Ctrl-C ends them.
    """
    run_id = "orpo"
    rendezvous = StaticTCPRendezvous(
        request.address, request.port, request.machine_rank, request.machines, run_id, request.seconds
    )
    spec = WorkerSpec(
        role="default",
        local_world_size=request.processes,
        rdzv_handler=rendezvous,
        entrypoint=request.command[0],
        args=tuple(request.command[1:]),
        max_restarts=0,
        monitor_interval=request.monitor_interval,
        master_addr=request.address,
        master_port=request.port,
    )
    agent = Agent(spec, control, request.variables)
    with _torch_launcher_quiet():
        result = agent.run()
    return _outcome(control, world_size, agent.killed, result) if result.is_failed() else Outcome(None)


def _outcome(control: Control, world_size: int, killed: Mapping[int, FailureRecord], result: RunResult) -> Outcome:
    try:
        records = [record for rank in range(world_size) if (record := control.failure(rank)) is not None]
        if (first := control.first_failure()) is not None and first.rank < 0:
            records.append(first)  # the parent of another machine
    except StoreLost:
        records = []
    failure = choose_failure(records, killed)
    if failure is None:
        failure = _without_record({each.exitcode for each in result.failures.values()})
    return Outcome(failure, max((each.step for each in records), default=0))


def _without_record(exit_codes: set[int]) -> FailureRecord:
    """The failure of processes that ended before they could record it."""
    if interruption.cause() or exit_codes == {Interrupted.exit_code}:
        return FailureRecord(0, Interrupted.kind, Interrupted.exit_code, "interrupted.")
    message = "the processes ended, and recorded no error."
    return FailureRecord(0, RunError.kind, RunError.exit_code, message, "See logs/ in the run directory.")


@contextmanager
def _torch_launcher_quiet() -> Iterator[None]:
    """Context in which torch's launcher writes to the log only, and leaves the signal handlers of the command."""
    logger, events, handler = logging.getLogger(LOGGER), logging.getLogger(EVENTS), logging.NullHandler()
    propagate, before = logger.propagate, os.environ.get("TORCHELASTIC_SIGNALS_TO_HANDLE")
    number = getattr(signal, UNUSED_SIGNAL)
    action = signal.getsignal(number)
    logger.addHandler(handler)
    logger.propagate, events.disabled = False, True
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = UNUSED_SIGNAL
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # torch sets none in another one, and nobody can
            signal.signal(number, action)
        logger.propagate = propagate
        logger.removeHandler(handler)
        os.environ.pop("TORCHELASTIC_SIGNALS_TO_HANDLE")
        if before is not None:
            os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = before
