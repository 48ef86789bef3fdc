"""Kubernetes: the manifest of a job that trains, with a pod for each machine and a service by which they find the first one."""

from __future__ import annotations

from typing import Any

from orpo_cli.errors import Interrupted, UsageError
from orpo_cli.launch.train_job import FIRST_PORT, TrainJob

WORKSPACE = "/workspace"
GRACE_SECONDS = 600  # for a step and a checkpoint after SIGTERM
GPU = "nvidia.com/gpu"


def kubernetes_manifest(job: TrainJob) -> list[dict[str, Any]]:
    """The documents of the manifest. Raises UsageError where launch.kubernetes lacks the image or the volume."""
    settings, name, machines = job.kubernetes, job.resource_name(), job.launch.num_machines
    for key in ("image", "volume_claim"):
        if getattr(settings, key) is None:
            raise UsageError(
                f"launch.kubernetes.{key} is missing: a pod needs an image with orpo-cli, and a volume that outlives it.",
                remedy=f"Add it to the recipe, or: --set launch.kubernetes.{key}=NAME.",
            )
    metadata = {"name": name} | ({} if settings.namespace is None else {"namespace": settings.namespace})
    documents: list[dict[str, Any]] = []
    if machines > 1:
        selector = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"job-name": name}}
        documents.append({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": selector})
    spec = {
        "completionMode": "Indexed",
        "completions": machines,
        "parallelism": machines,
        "backoffLimit": 3 * machines,
        # Exit code 130: a checkpoint is saved. DisruptionTarget: the node was drained, or the pod was preempted.
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [Interrupted.exit_code]}},
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": {"spec": _pod(job, name)},
    }
    documents.append({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec})
    return documents


def _pod(job: TrainJob, name: str) -> dict[str, Any]:
    settings, machines = job.kubernetes, job.launch.num_machines
    rendezvous = {"MASTER_ADDR": f"{name}-0.{name}", "MASTER_PORT": str(FIRST_PORT)} if machines > 1 else {}
    environment = {"HOME": WORKSPACE, "ORPO_CACHE": f"{WORKSPACE}/.cache/orpo", **rendezvous}
    # exec: the signal of Kubernetes goes to the first process of the container. Kubernetes itself replaces $(NAME), and $$ by $.
    command = f"exec {job.remote_command('$JOB_COMPLETION_INDEX')}".replace("$", "$$")
    container: dict[str, Any] = {
        "name": "train",
        "image": settings.image,
        "workingDir": WORKSPACE,
        "command": ["/bin/sh", "-c", command],
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "volumeMounts": [{"name": "workspace", "mountPath": WORKSPACE}, {"name": "shm", "mountPath": "/dev/shm"}],
    }
    if settings.secret is not None:
        container["envFrom"] = [{"secretRef": {"name": settings.secret}}]
    if gpus := _gpus(job):
        container["resources"] = {"limits": {GPU: gpus}}
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "containers": [container],
        "volumes": [
            {"name": "workspace", "persistentVolumeClaim": {"claimName": settings.volume_claim}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},  # 64 MB by default, too little for NCCL
        ],
    }
    return {"subdomain": name, **pod} if machines > 1 else pod


def _gpus(job: TrainJob) -> int:
    if job.kubernetes.gpus_per_node is not None:
        return job.kubernetes.gpus_per_node
    return job.processes_per_machine or 1 if job.needs_gpus else 0
