"""Submission of a training to a cluster: write the script or the task file, and hand a script to Slurm."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from orpo_cli.atomic import atomic_write_text
from orpo_cli.errors import MachineError, UsageError
from orpo_cli.launch.dstack import dstack_task
from orpo_cli.launch.kubernetes import kubernetes_manifest
from orpo_cli.launch.skypilot import skypilot_task
from orpo_cli.launch.slurm import gpus_per_node, slurm_script
from orpo_cli.launch.train_job import TrainJob
from orpo_cli.recipe.source.yaml_writer import block_yaml
from orpo_cli.report.console import Console
from orpo_cli.run_creation import raise_if_in_use
from orpo_cli.run_lock import active_run_error, live_owner
from orpo_cli.rundir import RunDir
from orpo_cli.workflows.output_file import check_output_file


class Target(StrEnum):
    """A kind of cluster."""

    SLURM = "slurm"
    SKYPILOT = "skypilot"
    DSTACK = "dstack"
    KUBERNETES = "kubernetes"


SUFFIXES = {Target.SKYPILOT: ".sky.yaml", Target.DSTACK: ".dstack.yml", Target.KUBERNETES: ".job.yaml"}
HEADER = "# Written by `orpo submit --to {target}`; the next one with --force replaces it.\n"


@dataclass(frozen=True)
class Submission:
    """What was written and submitted; ``file`` is None for a dry run, ``job_id`` unless Slurm has the job."""

    target: Target
    text: str
    file: Path | None = None
    job_id: str | None = None


def submission_text(job: TrainJob, target: Target) -> str:
    """The script or the task file. Raises UsageError where the recipe lacks a setting of the target."""
    if target is Target.SLURM:
        text = slurm_script(job, RunDir(job.loaded.output_dir).logs)
        if job.slurm.setup or job.slurm.srun_args:
            _check_syntax(text)
        return text
    documents: list[Any]
    if target is Target.KUBERNETES:
        documents = kubernetes_manifest(job)
    else:
        documents = [skypilot_task(job) if target is Target.SKYPILOT else dstack_task(job)]
    return HEADER.format(target=target.value) + "---\n".join(block_yaml(each) for each in documents)


def submit_to_slurm(job: TrainJob, console: Console) -> Submission:
    """Write the script into the logs of the run, and submit it.

    Raises UsageError where the run could not start, MachineError where sbatch is missing or refuses the script.
    """
    text = submission_text(job, Target.SLURM)
    if shutil.which("sbatch") is None:
        raise MachineError(
            "sbatch was not found: this machine cannot submit jobs to Slurm.",
            remedy="Run the command on a login node of the cluster, or print the script with --dry-run.",
        )
    rundir = RunDir(job.loaded.output_dir)
    if not rundir.is_run():
        raise_if_in_use(rundir)
    elif owner := live_owner(rundir.root):
        raise active_run_error(rundir.root, owner)
    if gpus_per_node(job) is None and job.needs_gpus:
        console.warn("the job requests no GPU: set launch.slurm.gpus_per_node, unless the partition gives whole nodes.")
    file = rundir.logs / "slurm.sbatch"
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(file, text)
    done = subprocess.run(["sbatch", "--parsable", str(file)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MachineError(
            f"sbatch refused the job: {done.stderr.strip() or f'exit code {done.returncode}'}",
            remedy=f"Correct launch.slurm in {job.recipe}, then submit it again. The script is {file}.",
        )
    job_id = done.stdout.strip().split(";")[0]  # ID, or ID;CLUSTER
    return Submission(Target.SLURM, text, file, job_id)


def write_task_file(job: TrainJob, target: Target, output: Path | None, *, overwrite: bool) -> Submission:
    """Write the task file of another tool, which submits it."""
    text = submission_text(job, target)
    file = output or Path(job.resource_name() + SUFFIXES[target])
    check_output_file(file, overwrite=overwrite)
    atomic_write_text(file, text)
    return Submission(target, text, file)


def next_command(job: TrainJob, target: Target, file: Path) -> str:
    """The command of another tool that submits the task file."""
    name = shlex.quote(str(file))
    if target is Target.KUBERNETES:
        return f"kubectl apply -f {name}"
    if target is Target.DSTACK:
        return f"dstack apply -f {name}"
    secrets = "".join(f" --secret {variable}" for variable in job.variables())
    return f"sky launch{secrets} {name}    (`sky jobs launch{secrets} {name}` on spot instances)"


def _check_syntax(script: str) -> None:
    """Raise UsageError where the user's shell lines break the script: the job would fail after it waited in the queue."""
    bash = shutil.which("bash")
    if bash is None:
        return
    done = subprocess.run([bash, "-n"], input=script, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UsageError(
            f"launch.slurm.setup or srun_args is not valid in a shell: {done.stderr.strip()}",
            remedy="Close quotes and blocks; `orpo submit` prints the script with --dry-run when they are valid.",
        )
