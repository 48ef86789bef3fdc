"""`launch`: processes and machines of a training, with the names of accelerate's launcher."""

from typing import Annotated, Any, Literal

from pydantic import Field

from orpo_cli.recipe.schema.clusters import KubernetesSection, SlurmSection
from orpo_cli.recipe.schema.section import Section


class FsdpConfig(Section):
    """Settings of FSDP 2, with the names of accelerate's plugin."""

    reshard_after_forward: bool = Field(
        True,
        description="Free the gathered weights of a layer after its forward pass, and gather them again for the backward pass: "
        "less memory, more communication.",
    )
    offload_params: bool = Field(
        False, description="Keep the shards of weights, gradients and optimizer states in the memory of the host."
    )
    transformer_layer_cls_to_wrap: list[str] | None = Field(
        None,
        min_length=1,
        description="Classes of the layers that are gathered one by one; default: the decoder layers of the model.",
        examples=[["LlamaDecoderLayer"]],
    )
    cpu_ram_efficient_loading: bool = Field(
        False, description="Read the weights in one process, which sends each other process its shard."
    )
    activation_checkpointing: bool = Field(
        False, description="The same as training.gradient_checkpointing: recompute activations in the backward pass."
    )


class LaunchSection(Section):
    """Processes and machines, with the names of accelerate's launcher."""

    num_processes: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="Total number of processes on all machines. A number multiplies the pairs of a step, as in transformers, if "
        "gradient_accumulation_steps is written; auto keeps them.",
    )
    strategy: Literal["auto", "single", "ddp", "fsdp", "deepspeed"] = Field(
        "auto", description="How the processes divide the work."
    )
    num_machines: int = Field(1, ge=1, description="Number of machines; each runs the same number of processes.")
    machine_rank: Literal["auto"] | Annotated[int, Field(ge=0)] | None = Field(
        "auto", description="Number of this machine, from 0; auto: SLURM_PROCID in a Slurm job."
    )
    main_process_ip: Annotated[str, Field(min_length=1)] | None = Field(
        "auto",
        description="Address of machine 0; auto: MASTER_ADDR, or SLURM_LAUNCH_NODE_IPADDR in a Slurm job.",
        examples=["10.0.0.1"],
    )
    main_process_port: Literal["auto"] | Annotated[int, Field(ge=0, le=65535)] = Field(
        "auto", description="Port of machine 0; auto: a free port, or with several machines MASTER_PORT, else 29500."
    )
    gpu_ids: str = Field(
        "all",
        pattern=r"^(all|\d+(,\d+)*)$",
        description="GPUs of this machine to use: all, or their numbers.",
        examples=["0,1"],
    )
    num_cpu_threads_per_process: Literal["auto"] | Annotated[int, Field(ge=1)] | None = Field(
        "auto", description="CPU threads of each process (OMP_NUM_THREADS); auto: an equal share of the CPUs."
    )
    enable_cpu_affinity: bool = Field(False, description="Bind each process to the CPUs that are near its GPU.")
    monitor_interval: float = Field(
        0.1, gt=0, description="Seconds between two looks of the launcher at the processes.", examples=[5.0]
    )
    rdzv_conf: dict[str, Any] = Field(
        {}, description="Settings of torch's rendezvous between machines.", examples=[{"timeout": 900}]
    )
    fsdp_config: FsdpConfig | None = Field(
        None,
        description="Settings of FSDP 2. With them, `strategy: auto` is fsdp.",
        examples=[{"reshard_after_forward": False}],
    )
    deepspeed_config: Annotated[str, Field(min_length=1)] | dict[str, Any] | None = Field(
        None,
        description="Configuration of DeepSpeed, as a mapping or the path of its JSON file. With it, `strategy: auto` is deepspeed. "
        "`auto` stands for the value of the same setting in `training`.",
        examples=[{"zero_optimization": {"stage": 2}}, "ds_config.json"],
    )
    # What only `orpo submit` reads is not in the plan: a run can be resumed by another job.
    slurm: SlurmSection | None = Field(
        None,
        exclude=True,
        description="Job of `orpo submit --to slurm`.",
        examples=[{"partition": "gpu", "time": "12:00:00"}],
    )
    skypilot: dict[str, Any] = Field(
        {},
        exclude=True,
        description="Keys of a SkyPilot task for `orpo submit --to skypilot`; they replace those that orpo writes.",
        examples=[{"resources": {"accelerators": "H100:8", "use_spot": True}}],
    )
    dstack: dict[str, Any] = Field(
        {},
        exclude=True,
        description="Keys of a dstack task for `orpo submit --to dstack`; they replace those that orpo writes.",
        examples=[{"resources": {"gpu": "H100:8"}}],
    )
    kubernetes: KubernetesSection | None = Field(
        None,
        exclude=True,
        description="Job of `orpo submit --to kubernetes`.",
        examples=[{"image": "registry.example.com/orpo:0.3", "volume_claim": "training"}],
    )

    def written_strategy(self) -> str:
        """The written strategy, or else the one whose configuration is written; auto if there is none."""
        if self.strategy != "auto":
            return self.strategy
        return "deepspeed" if self.deepspeed_config is not None else "fsdp" if self.fsdp_config is not None else "auto"
