"""Environment variables of a rank: its place among the processes of a job, and the variables that a plan gives it.

`orpo train`, torchrun, accelerate launch and srun set the same variables: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from orpo_cli.errors import UsageError
from orpo_cli.planning.plan import LaunchPlan

LAUNCHED = "ORPO_LAUNCHED"  # set in a process that `orpo train` has started: its parent owns the run
# Settings of accelerate and FSDP that the libraries read from the environment: a rank obeys the plan alone.
FOREIGN_PREFIXES = ("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_", "MEGATRON_LM_")


@dataclass(frozen=True)
class Ranks:
    """Place of this process among the processes of a job.

    ``launched``: by `orpo train`, and not by another launcher. ``address`` and ``port``: the store of the job.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    machine_rank: int
    address: str
    port: int
    machines: int = 1
    launched: bool = False

    @classmethod
    def from_environment(cls) -> Ranks | None:
        """The place of this process; None where it is the only one. Raises UsageError where variables are missing."""
        launched = os.environ.get(LAUNCHED) == "1"
        if _number("WORLD_SIZE", default=1) == 1 and not launched:
            return None
        local_world_size = _number("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE", default=1)
        rank = _number("RANK")
        return cls(
            rank=rank,
            world_size=_number("WORLD_SIZE"),
            local_rank=_number("LOCAL_RANK", "SLURM_LOCALID"),
            local_world_size=local_world_size,
            machine_rank=_number("GROUP_RANK", "SLURM_NODEID", default=rank // local_world_size),
            address=os.environ.get("MASTER_ADDR", "127.0.0.1"),
            port=_number("MASTER_PORT"),
            machines=_number("GROUP_WORLD_SIZE", "SLURM_NNODES", default=1),
            launched=launched,
        )

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which owns display and run directory."""
        return self.rank == 0


def _number(*names: str, default: int | None = None) -> int:
    for name in names:
        value = os.environ.get(name, "")
        if value.isdecimal():
            return int(value)
    if default is not None:
        return default
    raise UsageError(
        f"WORLD_SIZE is {os.environ.get('WORLD_SIZE')}, but {names[0]} is not set, which tells the processes apart.",
        remedy="Start the processes with torchrun, accelerate launch or srun; or unset WORLD_SIZE, and let orpo start them.",
    )


def refuse_other_launch(launch: LaunchPlan, ranks: Ranks) -> None:
    """Raise UsageError where the recipe wants another launch than the one that another launcher has started."""
    if ranks.machines > 1:
        raise UsageError(
            f"another launcher has started processes on {ranks.machines} machines.",
            remedy="Start `orpo train` on each machine, with launch.num_machines and launch.machine_rank; it starts the "
            "processes itself.",
        )
    if launch.num_processes != ranks.world_size:
        raise UsageError(
            f"launch.num_processes is {launch.num_processes}, but {ranks.world_size} processes were started (WORLD_SIZE).",
            remedy="Start as many, or leave it to the launcher: --set launch.num_processes=auto. Without a launcher, "
            "`orpo train` starts the processes itself.",
        )
    if launch.strategy == "single":
        raise UsageError(
            f"launch.strategy is single, but {ranks.world_size} processes were started (WORLD_SIZE).",
            remedy="Start one process, or use --set launch.strategy=auto.",
        )


def worker_variables(launch: LaunchPlan) -> dict[str, str]:
    """The variables that the plan gives to each process which `orpo train` starts, besides those of torch's launcher."""
    variables = {"OMP_NUM_THREADS": str(launch.num_cpu_threads_per_process or 1)}
    if launch.gpu_ids != "all":
        variables["CUDA_VISIBLE_DEVICES"] = launch.gpu_ids
    if launch.enable_cpu_affinity:
        variables["ACCELERATE_CPU_AFFINITY"] = "1"
    return variables


def apply_plan(launch: LaunchPlan, *, launched: bool) -> None:
    """In a rank, before accelerate is imported: leave no setting in the environment that is not in the plan.

    ``launched``: the parent has set the variables of its machine already.
    """
    variables = worker_variables(launch)
    for name in list(os.environ):
        if name.startswith(FOREIGN_PREFIXES) and name not in variables:
            del os.environ[name]
    if not launched:
        os.environ.update(variables)
