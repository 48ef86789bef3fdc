"""Control of a job: the store by which its processes get their orders and report how they ended.

It is torch's TCPStore, on the port where torch's launcher and process group meet, so a job needs one port.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import MachineError, RunError
from orpo_cli.launch.environment import Ranks
from orpo_cli.launch.failure import FailureRecord

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

PREFIX = "orpo"
JOB, READY, BEGUN, ENDED, FIRST = "job", "ready", "begun", "ended", "failure/first"
DONE = b"done"
POLL_SECONDS = 0.2
FAILURE_WAIT_SECONDS = 5.0  # in which the rank that failed first has recorded it
OPERATION_TIMEOUT = timedelta(seconds=60)


class StoreLost(RunError):
    """The process that has the store of the job is gone."""

    is_secondary = True


@dataclass(frozen=True)
class Job:
    """Orders of the ranks. ``token``: of the lock of the run, which their parent (or rank 0) holds.

    ``started``: the start of the command, in seconds since 1970. ``quiet``: whether rank 0 shows nothing but warnings.
    """

    run: str
    token: str
    attempt: int
    checkpoint: str | None
    started: float
    quiet: bool


class Control:
    """Client of the store of a job. Raises StoreLost where the store is gone."""

    def __init__(self, store: Store, port: int) -> None:
        from torch._C._distributed_c10d import PrefixStore

        self._store = PrefixStore(PREFIX, store)
        self.port = port

    @classmethod
    def host(cls, address: str, port: int) -> Control:
        """Open the store in this process; port 0 is a free one. Raises MachineError where the port is taken."""
        from torch._C._distributed_c10d import TCPStore
        from torch.distributed import DistNetworkError

        try:
            store = TCPStore(
                address, port, is_master=True, multi_tenant=True, wait_for_workers=False, timeout=OPERATION_TIMEOUT
            )
        except (DistNetworkError, RuntimeError) as error:
            raise MachineError(
                f"the processes cannot meet at {address}:{port}: {str(error).splitlines()[0]}",
                remedy="Another program may use the port: --set launch.main_process_port=PORT; the address must be one of "
                "this machine.",
            ) from error
        return cls(store, store.port)

    @classmethod
    def connect(cls, address: str, port: int, seconds: float) -> Control:
        """Connect to the store of another process. Raises MachineError where there is none within ``seconds``."""
        from torch._C._distributed_c10d import TCPStore
        from torch.distributed import DistError

        try:
            store = TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=seconds))
        except (DistError, RuntimeError) as error:
            raise MachineError(
                f"machine 0 does not answer at {address}:{port} within {seconds:.0f} s.",
                remedy="Start the same command there with launch.machine_rank 0. launch.main_process_ip and "
                "launch.main_process_port must be the same on all machines, and no firewall may be between them.",
            ) from error
        store.set_timeout(OPERATION_TIMEOUT)
        return cls(store, port)

    @classmethod
    def of_rank(cls, ranks: Ranks, seconds: float = 300.0) -> Control:
        """The store of the job that this rank takes part in; without a launcher that has one, rank 0 opens it."""
        hosts = ranks.is_first and not ranks.launched and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        return cls.host(ranks.address, ranks.port) if hosts else cls.connect(ranks.address, ranks.port, seconds)

    def publish_job(self, job: Job) -> None:
        """Give all ranks their orders."""
        self._set(JOB, json.dumps(asdict(job)))

    def job(self) -> Job | None:
        """The orders, when they are published; None where the run has finished before.

        Raises the error of a process that failed before.
        """
        job = self._wait_for(JOB, ENDED)
        return Job(**json.loads(job)) if job != DONE else None

    def publish_pairs(self, machine_rank: int, folder: Path) -> None:
        """Say that the pairs are prepared for the ranks of a machine."""
        self._set(f"pairs/{machine_rank}", str(folder))

    def pairs(self, machine_rank: int) -> Path:
        """The folder of the pairs on a machine, when they are prepared. Raises the error of a process that failed before."""
        return Path(self._wait_for(f"pairs/{machine_rank}").decode())

    def join(self, machine_rank: int) -> None:
        """Say that a machine takes part."""
        self._set(f"joined/{machine_rank}", DONE.decode())

    def wait_for_machines(self, machines: int, seconds: float) -> None:
        """Wait until the pairs are prepared on all machines. Raises MachineError where one does not join in ``seconds``."""
        deadline = time.monotonic() + seconds
        for machine_rank in range(1, machines):
            try:
                self._wait_for(f"joined/{machine_rank}", deadline=deadline)
            except TimeoutError:
                raise MachineError(
                    f"machine {machine_rank} of {machines} has not joined within {seconds:.0f} s.",
                    remedy=f"Start the same command there with launch.machine_rank {machine_rank}. A longer wait: "
                    "launch.rdzv_conf.timeout, in seconds.",
                ) from None
        for machine_rank in range(machines):
            self.pairs(machine_rank)

    def wait_for_ranks(self, world_size: int, seconds: float) -> None:
        """Wait until all ranks are here. Raises the error of a rank that failed before, RunError after ``seconds``.

        torch waits for them, too, but in C++, where a process notices neither that another one failed nor a signal.
        """
        if self._call("add", f"{READY}/count", 1) == world_size:
            self._set(READY, DONE.decode())
        try:
            self._wait_for(READY, deadline=time.monotonic() + seconds)
        except TimeoutError:
            raise RunError(
                f"the {world_size} ranks have not started within {seconds:.0f} s.",
                remedy="See the logs of the ranks. A longer wait: training.ddp_timeout, in seconds.",
            ) from None

    def set_begun(self) -> None:
        """By rank 0: the steps begin, and from now on there may be a checkpoint to complete."""
        self._set(BEGUN, DONE.decode())

    def has_begun(self) -> bool:
        """Whether the steps have begun."""
        return self._get(BEGUN) is not None

    def record_failure(self, record: FailureRecord) -> bool:
        """Record how a rank ended; whether it is the first one that failed. An interruption is no failure."""
        self._set(f"failure/{record.rank}", record.to_json())
        if record.exit_code == 130:
            return False
        first = self._call("compare_set", FIRST, "", str(record.rank))
        return bool(first == str(record.rank).encode())

    def first_failure(self) -> FailureRecord | None:
        """The failure that was recorded first; None while no rank has failed."""
        rank = self._get(FIRST)
        return None if rank is None else self.failure(int(rank))

    def wait_for_failure(self) -> FailureRecord | None:
        """The first failure, for a rank that has lost its connection: another one may be about to record it."""
        deadline = time.monotonic() + FAILURE_WAIT_SECONDS
        while (found := self.first_failure()) is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return found

    def failure(self, rank: int) -> FailureRecord | None:
        """How a rank ended; None where it has not recorded it."""
        record = self._get(f"failure/{rank}")
        return None if record is None else FailureRecord.from_json(record)

    def set_ended(self) -> None:
        """By rank 0: the result or the last checkpoint is complete, and the other ranks may leave."""
        self._set(ENDED, DONE.decode())

    def wait_until_ended(self) -> None:
        """By the other ranks: wait for rank 0, which may write gigabytes. A launcher ends all ranks when one has left."""
        try:
            while self._get(ENDED) is None and self._get(FIRST) is None:
                time.sleep(POLL_SECONDS)
        except StoreLost:  # with the parent of rank 0
            return

    def _wait_for(self, *keys: str, deadline: float = math.inf) -> bytes:
        """The value of the first of the keys that has one."""
        while (value := next((each for key in keys if (each := self._get(key)) is not None), None)) is None:
            if (failure := self.first_failure()) is not None:
                error = failure.error(2)
                error.is_secondary = True
                raise error
            if time.monotonic() > deadline:
                raise TimeoutError(keys[0])
            time.sleep(POLL_SECONDS)
        return value

    def _get(self, key: str) -> bytes | None:
        return self._call("get", key) if self._call("check", [key]) else None

    def _set(self, key: str, value: str) -> None:
        self._call("set", key, value)

    def _call(self, name: str, *arguments: Any) -> Any:
        from torch.distributed import DistError

        try:
            return getattr(self._store, name)(*arguments)
        except (DistError, RuntimeError) as error:
            raise StoreLost(f"the store of the job is gone: {str(error).splitlines()[0]}") from error
