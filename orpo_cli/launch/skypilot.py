"""SkyPilot: the task file of a training."""

from __future__ import annotations

from typing import Any

from orpo_cli import __version__
from orpo_cli.errors import UsageError
from orpo_cli.launch.train_job import FIRST_PORT, TrainJob

RENDEZVOUS = f'export MASTER_ADDR="$(echo "$SKYPILOT_NODE_IPS" | head -n 1)" MASTER_PORT={FIRST_PORT}\n'


def skypilot_task(job: TrainJob) -> dict[str, Any]:
    """The task, with the keys of launch.skypilot in place of those that are written here."""
    machines = job.launch.num_machines
    task: dict[str, Any] = {"name": job.resource_name(), "workdir": ".", "num_nodes": machines}
    if variables := job.variables():
        task["secrets"] = dict.fromkeys(variables)  # `sky launch --secret NAME` takes the value from the environment
    task["setup"] = f"pip install ./orpo_cli-{__version__}-py3-none-any.whl\n"  # no release is on a package index
    task["run"] = (RENDEZVOUS if machines > 1 else "") + job.remote_command("$SKYPILOT_NODE_RANK") + "\n"
    task |= job.launch.skypilot
    resources = task.get("resources", {})
    if job.needs_gpus and not (
        isinstance(resources, dict) and resources.keys() & {"accelerators", "any_of", "ordered"}
    ):
        number = job.processes_per_machine or 1
        raise UsageError(
            "launch.skypilot does not say which GPUs the task needs.",
            remedy=f"Set launch.skypilot.resources.accelerators, for example `A100:{number}`; `sky show-gpus` lists them.",
        )
    return task
