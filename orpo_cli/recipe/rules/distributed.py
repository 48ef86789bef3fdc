"""Rules about several processes: DDP, FSDP, DeepSpeed and device_map, and what cannot be sharded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from orpo_cli.errors import Problem
from orpo_cli.recipe.deepspeed_config import deepspeed_problems
from orpo_cli.recipe.schema import LaunchSection, Recipe

ZERO_OPTIMIZERS = (
    "adamw_torch",
    "adamw_torch_fused",
    "sgd",
    "adagrad",
    "rmsprop",
)  # torch's, which work on each number
WRAPPERS = ("ddp", "fsdp", "deepspeed")


def _several(recipe: Recipe) -> bool:
    """Whether the recipe configures several processes; auto may decide for one."""
    return recipe.launch.num_processes not in ("auto", 1) or recipe.launch.written_strategy() in WRAPPERS


def _one_process(launch: LaunchSection) -> bool:
    """Whether the recipe configures one process, without FSDP and DeepSpeed."""
    strategy = launch.written_strategy()
    return strategy == "single" or (launch.num_processes == 1 and strategy not in ("fsdp", "deepspeed"))


def _enabling_key(launch: LaunchSection, strategy: Literal["fsdp", "deepspeed"]) -> str | None:
    """The key that enables FSDP or DeepSpeed; None if it is off."""
    if launch.strategy == strategy:
        return "launch.strategy"
    return f"launch.{strategy}_config" if getattr(launch, f"{strategy}_config") is not None else None


def fsdp_and_deepspeed(recipe: Recipe) -> Iterator[Problem]:
    """FSDP and DeepSpeed both shard the weights."""
    fsdp, deepspeed = _enabling_key(recipe.launch, "fsdp"), _enabling_key(recipe.launch, "deepspeed")
    if fsdp and deepspeed:
        path, other = (fsdp, deepspeed) if fsdp != "launch.strategy" else (deepspeed, fsdp)
        yield Problem(
            "fsdp-and-deepspeed",
            f"FSDP and DeepSpeed exclude each other, and {other} enables the other one.",
            path,
            remedy="Keep one.",
        )


def processes_and_strategy(recipe: Recipe) -> Iterator[Problem]:
    """`single` runs one process, and `ddp` several. FSDP and DeepSpeed also run in one, to be tried there."""
    processes, strategy = recipe.launch.num_processes, recipe.launch.strategy
    if strategy == "single" and processes not in ("auto", 1):
        yield Problem(
            "processes-and-strategy",
            f"is {processes}, but launch.strategy is single.",
            "launch.num_processes",
            remedy="Use 1, or strategy: auto, ddp, fsdp or deepspeed.",
        )
    if strategy == "ddp" and processes == 1:
        yield Problem(
            "processes-and-strategy",
            "is ddp, which needs several processes, but launch.num_processes is 1.",
            "launch.strategy",
            remedy="Use strategy: single, or more processes.",
        )


def processes_and_machines(recipe: Recipe) -> Iterator[Problem]:
    """Each machine runs the same number of processes, and has a number below the number of machines."""
    launch = recipe.launch
    if launch.num_processes != "auto" and launch.num_processes % launch.num_machines:
        yield Problem(
            "processes-and-machines",
            f"is {launch.num_processes}, which {launch.num_machines} machines cannot share equally.",
            "launch.num_processes",
            remedy=f"Use a multiple of {launch.num_machines}: it is the total over all machines.",
        )
    if isinstance(launch.machine_rank, int) and launch.machine_rank >= max(2, launch.num_machines):
        yield Problem(
            "processes-and-machines",
            f"is {launch.machine_rank}, but the machines have the numbers 0 to {launch.num_machines - 1}.",
            "launch.machine_rank",
            remedy="Use one of them, or more machines.",
        )


def launch_settings_unused(recipe: Recipe) -> Iterator[Problem]:
    """Settings of other strategies, of several processes and of several machines."""
    launch, default = recipe.launch, LaunchSection()
    strategy = launch.written_strategy()
    unused = {}
    if strategy in ("single", "ddp"):
        unused = dict.fromkeys(("fsdp_config", "deepspeed_config"), f"launch.strategy is {strategy}")
    if launch.num_machines == 1:
        unused |= dict.fromkeys(("machine_rank", "main_process_ip", "rdzv_conf"), "launch.num_machines is 1")
    if _one_process(launch):
        names = (
            "main_process_port",
            "gpu_ids",
            "num_cpu_threads_per_process",
            "enable_cpu_affinity",
            "monitor_interval",
        )
        unused |= dict.fromkeys(names, "there is one process")
    for name, reason in unused.items():
        if getattr(launch, name) != getattr(default, name):
            yield Problem(
                "launch-settings-unused",
                f"has no effect: {reason}.",
                f"launch.{name}",
                remedy="Remove it.",
                severity="warning",
            )


def fsdp_loading(recipe: Recipe) -> Iterator[Problem]:
    """Every process reads the weights into the memory of the host, and keeps its shard."""
    config = recipe.launch.fsdp_config
    if config is not None and config.cpu_ram_efficient_loading:
        yield Problem(
            "launch-settings-unused",
            "has no effect in this version: every process reads the weights.",
            "launch.fsdp_config.cpu_ram_efficient_loading",
            remedy="Remove it.",
            severity="warning",
        )


def device_map_with_processes(recipe: Recipe) -> Iterator[Problem]:
    """device_map places one model on all GPUs, so no GPU is left for another process."""
    if recipe.model.device_map is not None and _several(recipe):
        yield Problem(
            "device-map-processes",
            "spreads the model of one process over the GPUs, but `launch` configures several processes.",
            "model.device_map",
            remedy="Keep one: launch for speed, device_map for a model that does not fit on one GPU.",
        )


def ddp_settings_unused(recipe: Recipe) -> Iterator[Problem]:
    """One process has no gradients to exchange."""
    if not _one_process(recipe.launch):
        return
    names = ("find_unused_parameters", "bucket_cap_mb", "broadcast_buffers", "static_graph", "backend", "timeout")
    for name in recipe.training.explicit_non_defaults(*(f"ddp_{name}" for name in names)):
        yield Problem(
            "ddp-settings-unused",
            "has no effect in one process.",
            f"training.{name}",
            remedy="Remove it, or start several processes with `launch`.",
            severity="warning",
        )


def fsdp_8bit_optimizer(recipe: Recipe) -> Iterator[Problem]:
    """FSDP cannot shard the states of bitsandbytes optimizers."""
    optimizer = recipe.training.optim or ""
    bitsandbytes = optimizer.startswith("paged_") or "8bit" in optimizer or "bnb" in optimizer
    if recipe.launch.written_strategy() == "fsdp" and bitsandbytes:
        yield Problem(
            "fsdp-8bit-optimizer",
            f"is {optimizer}, whose states FSDP cannot shard.",
            "training.optim",
            remedy="Use adamw_torch_fused: with FSDP, each process stores only its shard of the states.",
        )


def fsdp_quantization(recipe: Recipe) -> Iterator[Problem]:
    """FSDP shards tensors of one type, so packed 4-bit weights need that type; 8-bit weights cannot be sharded."""
    quantization = recipe.quantization
    if recipe.launch.written_strategy() != "fsdp" or quantization is None:
        return
    if quantization.load_in_8bit:
        yield Problem(
            "fsdp-8bit-weights",
            "cannot be sharded by FSDP.",
            "quantization.load_in_8bit",
            remedy="Use load_in_4bit with bnb_4bit_quant_storage: bfloat16, or strategy: ddp.",
        )
    dtype = "bfloat16" if recipe.model.dtype == "auto" else recipe.model.dtype
    if quantization.load_in_4bit and quantization.bnb_4bit_quant_storage != dtype:
        yield Problem(
            "fsdp-4bit-storage",
            f"is {quantization.bnb_4bit_quant_storage}, but FSDP shards tensors of one type only, and the other weights are "
            f"{dtype}.",
            "quantization.bnb_4bit_quant_storage",
            remedy=f"Set it to {dtype}.",
        )


def sharded_best_model(recipe: Recipe) -> Iterator[Problem]:
    """Loading the best sharded model needs the states that save_only_model does not save."""
    training = recipe.training
    sharded = recipe.launch.written_strategy() in ("fsdp", "deepspeed")
    if training.save_only_model and training.load_best_model_at_end and sharded:
        yield Problem(
            "sharded-best-model",
            "excludes load_best_model_at_end with FSDP or DeepSpeed.",
            "training.save_only_model",
            remedy="Remove one of the two.",
        )


def fsdp_checkpointing_conflict(recipe: Recipe) -> Iterator[Problem]:
    """FSDP's activation checkpointing is the same setting."""
    config = recipe.launch.fsdp_config
    if config is None or not config.activation_checkpointing:
        return
    for name in ("gradient_checkpointing", "activation_checkpointing"):
        if getattr(recipe.training, name) is not None:
            yield Problem(
                "checkpointing-conflict",
                "is also set in launch.fsdp_config.activation_checkpointing.",
                f"training.{name}",
                remedy="Keep one.",
            )


def reentrant_checkpointing(recipe: Recipe) -> Iterator[Problem]:
    """With frozen weights in DDP, reentrant checkpointing marks a parameter as ready twice or never."""
    kwargs = recipe.training.gradient_checkpointing_kwargs or recipe.training.activation_checkpointing_kwargs
    if recipe.lora is not None and _several(recipe) and isinstance(kwargs, dict) and kwargs.get("use_reentrant"):
        name = "gradient" if recipe.training.gradient_checkpointing_kwargs else "activation"
        yield Problem(
            "reentrant-checkpointing",
            "use_reentrant: true fails with an adapter in several processes.",
            f"training.{name}_checkpointing_kwargs",
            remedy="Write {use_reentrant: false}, or remove it: false is the default here.",
        )


def deepspeed_config(recipe: Recipe) -> Iterator[Problem]:
    """The content of a file is checked when the recipe is planned."""
    config = recipe.launch.deepspeed_config
    if isinstance(config, dict):
        yield from deepspeed_problems(
            config,
            quantized=recipe.quantization is not None,
            loads_best_model=recipe.lora is None and bool(recipe.training.load_best_model_at_end),
        )


def deepspeed_optimizer(recipe: Recipe) -> Iterator[Problem]:
    """DeepSpeed gives an optimizer one flat vector, so that it may not depend on the shapes of weights, or on blocks of 8 bits."""
    optimizer = recipe.training.optim
    if recipe.launch.written_strategy() == "deepspeed" and optimizer not in (None, *ZERO_OPTIMIZERS):
        yield Problem(
            "deepspeed-optimizer",
            f"is {optimizer}, whose states DeepSpeed cannot divide.",
            "training.optim",
            remedy="Use adamw_torch_fused: each process stores only its part of the states. Or use strategy: ddp.",
        )
