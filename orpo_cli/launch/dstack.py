"""dstack: the configuration of a task that trains."""

from __future__ import annotations

from typing import Any

from orpo_cli import __version__
from orpo_cli.errors import UsageError
from orpo_cli.launch.train_job import FIRST_PORT, TrainJob

RENDEZVOUS = f"export MASTER_ADDR=$DSTACK_MASTER_NODE_IP MASTER_PORT={FIRST_PORT}"


def dstack_task(job: TrainJob) -> dict[str, Any]:
    """The task, with the keys of launch.dstack in place of those that are written here."""
    machines = job.launch.num_machines
    task: dict[str, Any] = {"type": "task", "name": job.resource_name(), "nodes": machines, "python": "3.12"}
    task["files"] = ["."]
    if variables := job.variables():
        task["env"] = variables  # names alone: `dstack apply` takes the values from the environment
    several = [RENDEZVOUS] if machines > 1 else []
    train = job.remote_command("$DSTACK_NODE_RANK")
    task["commands"] = [f"pip install ./orpo_cli-{__version__}-py3-none-any.whl", *several, train]
    task |= job.launch.dstack
    if "image" in task and "python" not in job.launch.dstack:
        del task["python"]  # dstack accepts one of both
    resources = task.get("resources", {})
    if job.needs_gpus and not (isinstance(resources, dict) and "gpu" in resources):
        number = job.processes_per_machine or 1
        raise UsageError(
            "launch.dstack does not say which GPUs the task needs.",
            remedy=f"Set launch.dstack.resources.gpu, for example `A100:{number}` or `80GB:{number}`.",
        )
    return task
