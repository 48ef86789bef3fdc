"""`launch.slurm`, `skypilot`, `dstack` and `kubernetes`: the job that `orpo submit` writes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from orpo_cli.recipe.schema.section import Section
from orpo_cli.recipe.schema.time_limit import TimeLimit

# Slurm reads an unquoted value up to white space or #, and % in a file name as the beginning of a pattern.
Word = Annotated[str, Field(pattern=r"^[^\s\x00-\x1f\x7f'\"\\#%]+$", max_length=1000)]
Line = Annotated[str, Field(pattern=r"^[^\x00-\x08\x0a-\x1f\x7f]+$", max_length=10_000)]  # no line break
SbatchOption = Annotated[str, Field(pattern=r"^--?[A-Za-z][^\x00-\x1f\x7f]*$", max_length=1000)]


class SlurmSection(Section):
    """Job of `orpo submit --to slurm`, with the names of the options of sbatch. Each task of the job is a machine of `launch`."""

    partition: Word | None = Field(None, description="Partition of the job.", examples=["gpu"])
    account: Word | None = Field(None, description="Account that is charged.", examples=["nlp"])
    qos: Word | None = Field(None, description="Quality of service.", examples=["normal"])
    constraint: Word | None = Field(None, description="Features that the nodes must have.", examples=["a100&nvlink"])
    time: TimeLimit | None = Field(
        None, description="Time limit of the job, as HH:MM:SS or D-HH:MM:SS.", examples=["12:00:00"]
    )
    nodes: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Number of nodes; default: launch.num_machines / ntasks_per_node.", examples=[2]
    )
    ntasks_per_node: int = Field(1, ge=1, description="Tasks on a node. One task starts all processes of its machine.")
    gpus_per_node: Annotated[int, Field(ge=0)] | Word | None = Field(
        None,
        description="GPUs of a node, also with their type; default: launch.num_processes / nodes.",
        examples=[8, "a100:4"],
    )
    cpus_per_task: Annotated[int, Field(ge=1)] | None = Field(None, description="CPUs of a task.", examples=[16])
    mem: Word | None = Field(None, description="Memory of a node.", examples=["200G"])
    requeue: bool = Field(
        True, description="Put the job back into the queue after an interruption; it then resumes the run."
    )
    signal_delay_s: int = Field(
        300,
        ge=1,
        le=65535,
        description="Seconds between the signal to save a checkpoint and the time limit. Slurm may send it up to 60 seconds earlier.",
    )
    extra: list[SbatchOption] = Field(
        [], description="More options of sbatch, each as a line of the script.", examples=[["--exclusive"]]
    )
    setup: list[Line] = Field(
        [],
        description="Shell commands that run on the first node before the training.",
        examples=[["module load cuda"]],
    )
    srun_args: list[Line] = Field([], description="More options of srun.", examples=[["--cpu-bind=cores"]])


class KubernetesSection(Section):
    """Job of `orpo submit --to kubernetes`."""

    image: Annotated[str, Field(pattern=r"^\S+$")] | None = Field(
        None, description="Image with orpo-cli. Required.", examples=["registry.example.com/orpo:0.3"]
    )
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] | None = Field(
        None, description="Namespace; default: that of kubectl.", examples=["training"]
    )
    volume_claim: Annotated[str, Field(pattern=r"^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$")] | None = Field(
        None,
        description="PersistentVolumeClaim with ReadWriteMany, mounted at /workspace: run directory, data, cache. Required.",
        examples=["training"],
    )
    gpus_per_node: int | None = Field(
        None,
        ge=0,
        description="GPUs of a pod; default: launch.num_processes / launch.num_machines, or 1.",
        examples=[8],
    )
    secret: Annotated[str, Field(pattern=r"^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$")] | None = Field(
        None, description="Secret whose keys become environment variables, such as HF_TOKEN.", examples=["hub"]
    )
