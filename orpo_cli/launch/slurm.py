"""Slurm: the batch script of a training, which saves before its time is over and then puts itself back into the queue."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from orpo_cli.errors import UsageError
from orpo_cli.launch.train_job import FIRST_PORT, TrainJob

PORTS = 1000  # jobs that run on a node at the same time get different ones
# Tasks end at about the same time; a task that does not would keep the nodes until the time limit.
WAIT_SECONDS = 300
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def slurm_script(job: TrainJob, logs: Path, *, python: str = sys.executable) -> str:
    """The batch script of a training, which writes its output to ``logs``.

    A task is a machine of `launch`: it starts the processes of its GPUs. The signal before the time limit goes to the tasks,
    which save a checkpoint and exit with 130. scancel and the time limit send SIGTERM to the script as well.
    """
    nodes, tasks = nodes_and_tasks(job)
    slurm = job.slurm
    lines = ["#!/bin/bash", *(f"#SBATCH {each}" for each in _options(job, logs, nodes)), ""]
    lines += ["# Written by `orpo submit --to slurm`. Each task is a machine of `launch`.", *slurm.setup]
    if tasks > 1:
        lines += [
            'MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            f"MASTER_PORT=$(({FIRST_PORT} + SLURM_JOB_ID % {PORTS}))",
            "export MASTER_ADDR MASTER_PORT",
        ]
    if slurm.cpus_per_task is not None:
        lines.append(f"export SRUN_CPUS_PER_TASK={slurm.cpus_per_task}  # srun does not read it from the job")
    machines = () if tasks == job.launch.num_machines else (f"launch.num_machines={tasks}",)
    command = shlex.join([python, "-m", "orpo_cli", *job.arguments(*machines)])
    srun = " ".join(["srun", f"--kill-on-bad-exit=0 --wait={WAIT_SECONDS}", *slurm.srun_args])
    lines += [
        "",
        "cancelled=",
        "trap 'cancelled=1' TERM  # of scancel, and of the time limit itself",
        "# a task may still save when another one has ended",
        "set +e  # of the setup: the job goes on when the tasks end with an exit code",
        f"{srun} \\\n  {command}",
        "code=$?",
        *(_requeue_lines() if slurm.requeue else ()),
        "exit $code",
    ]
    return "\n".join(lines) + "\n"


def nodes_and_tasks(job: TrainJob) -> tuple[int, int]:
    """The numbers of nodes and of tasks. Raises UsageError where `launch` and `launch.slurm` disagree."""
    launch = job.launch
    each = job.slurm.ntasks_per_node
    nodes = job.slurm.nodes or max(1, launch.num_machines // each)
    tasks = nodes * each
    if launch.num_machines not in (1, tasks):
        raise UsageError(
            f"launch.num_machines is {launch.num_machines}, but launch.slurm has {nodes} nodes with {each} tasks each.",
            remedy="Each task is a machine: leave out launch.slurm.nodes, or make the numbers equal.",
        )
    if launch.num_processes != "auto" and launch.num_processes % tasks:
        raise UsageError(
            f"launch.num_processes is {launch.num_processes}, which {tasks} tasks cannot share equally.",
            remedy=f"Use a multiple of {tasks}: it is the total over all machines.",
        )
    return nodes, tasks


def gpus_per_node(job: TrainJob) -> int | str | None:
    """The GPUs to request on each node: those of `launch.slurm`, or one for each process; None where neither says it."""
    launch = job.launch
    if job.slurm.gpus_per_node is not None:
        return job.slurm.gpus_per_node
    if launch.num_processes == "auto" or not job.needs_gpus:
        return None
    return launch.num_processes // nodes_and_tasks(job)[0]


def _options(job: TrainJob, logs: Path, nodes: int) -> Iterator[str]:
    slurm = job.slurm
    yield f"--job-name={_quoted(job.loaded.name, 'name')}"
    yield f"--chdir={_quoted(str(job.directory), 'the current directory')}"
    if "\\" in str(logs):
        raise UsageError(f"output_dir {logs.parent} has a backslash, which Slurm does not accept.")
    yield f"--output={_quoted(str(logs).replace('%', '%%') + '/slurm-%j.log', 'output_dir')}"
    yield "--open-mode=append"
    for name in ("partition", "account", "qos", "constraint", "time"):
        if (value := getattr(slurm, name)) is not None:
            yield f"--{name}={_quoted(value, name)}"
    yield f"--nodes={nodes}"
    yield f"--ntasks-per-node={slurm.ntasks_per_node}"
    if gpus := gpus_per_node(job):
        yield f"--gpus-per-node={gpus}"
    if slurm.cpus_per_task is not None:
        yield f"--cpus-per-task={slurm.cpus_per_task}"
    if slurm.mem is not None:
        yield f"--mem={slurm.mem}"
    yield "--requeue" if slurm.requeue else "--no-requeue"
    yield f"--signal=USR1@{slurm.signal_delay_s}"
    yield from slurm.extra


def _quoted(value: str, what: str) -> str:
    """A value in a line of options. Raises UsageError where it has a line break: Slurm reads the line to its end."""
    if CONTROL.search(value):
        raise UsageError(f"{what} {value!r} has a control character, which Slurm does not accept.")
    if re.fullmatch(r"[\w./:@%+=,-]*", value, re.ASCII):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _requeue_lines() -> list[str]:
    return [
        'if [ "$code" -eq 130 ] && [ -z "$cancelled" ]; then  # a checkpoint is saved; resume it in another allocation',
        '  scontrol requeue "$SLURM_JOB_ID"',
        "fi",
    ]
