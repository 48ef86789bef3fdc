"""Commands and environments of the processes of a plan: those that `orpo train` starts, and their equivalent for torchrun."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orpo_cli.launch.environment import worker_variables
from orpo_cli.planning.plan import LaunchPlan

WAIT_SECONDS = 900  # for other machines; torch's default
DRY_RUN = "--dry-run"


@dataclass(frozen=True)
class MachineCommand:
    """Command that starts the processes of one machine, with the variables that it needs."""

    machine_rank: int
    environment: Mapping[str, str]
    command: Sequence[str]

    def text(self) -> str:
        """The command for a shell."""
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*variables, shlex.join(self.command)])


def worker_command(arguments: Sequence[str]) -> list[str]:
    """The command of a process that runs this program with ``arguments``."""
    return [sys.executable, "-m", "orpo_cli", *(each for each in arguments if each != DRY_RUN)]


def wait_seconds(launch: LaunchPlan) -> int:
    """How long the machines of a job wait for each other."""
    return int(launch.rdzv_conf.get("timeout", WAIT_SECONDS))


def machine_commands(launch: LaunchPlan, arguments: Sequence[str]) -> list[MachineCommand]:
    """The command of each machine: for one, that of torchrun, which starts the same processes; for several, that of `orpo train`."""
    worker = worker_command(arguments)
    if launch.strategy == "single":
        return [MachineCommand(0, {}, worker)]
    environment = worker_variables(launch)
    if launch.num_machines == 1:
        start = [worker[0], "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={launch.num_processes}"]
        settings = ["--max-restarts=0", f"--monitor-interval={launch.monitor_interval:g}", "--module", *worker[2:]]
        return [MachineCommand(0, environment, [*start, *settings])]
    return [
        MachineCommand(rank, environment, [*worker, "--set", f"launch.machine_rank={rank}"])
        for rank in range(launch.num_machines)
    ]
