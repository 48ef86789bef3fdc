"""Rules about several processes: DDP, FSDP, DeepSpeed and device_map, and what cannot be sharded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from orpo_cli.errors import Problem
from orpo_cli.recipe.schema import Recipe


def _enabling_key(recipe: Recipe, strategy: Literal["fsdp", "deepspeed"]) -> str | None:
    """The key that enables FSDP or DeepSpeed; None if it is off."""
    if recipe.launch.strategy == strategy:
        return "launch.strategy"
    return f"training.{strategy}" if getattr(recipe.training, strategy) else None


def fsdp_and_deepspeed(recipe: Recipe) -> Iterator[Problem]:
    """FSDP and DeepSpeed both shard the weights."""
    fsdp, deepspeed = _enabling_key(recipe, "fsdp"), _enabling_key(recipe, "deepspeed")
    if fsdp and deepspeed:
        path, other = (fsdp, deepspeed) if fsdp != "launch.strategy" else (deepspeed, fsdp)
        yield Problem(
            "fsdp-and-deepspeed",
            f"FSDP and DeepSpeed exclude each other, and {other} enables the other one.",
            path,
            remedy="Keep one.",
        )


def processes_and_strategy(recipe: Recipe) -> Iterator[Problem]:
    """`single` runs one process, and the other strategies several."""
    processes, strategy = recipe.launch.num_processes, recipe.launch.strategy
    if strategy == "single" and processes not in ("auto", 1):
        yield Problem(
            "processes-and-strategy",
            f"is {processes}, but launch.strategy is single.",
            "launch.num_processes",
            remedy="Use 1, or strategy: auto, ddp, fsdp or deepspeed.",
        )
    if strategy in ("ddp", "fsdp") and processes == 1:
        yield Problem(
            "processes-and-strategy",
            f"is {strategy}, which needs several processes, but launch.num_processes is 1.",
            "launch.strategy",
            remedy="Use strategy: single, or more processes.",
        )


def device_map_with_processes(recipe: Recipe) -> Iterator[Problem]:
    """device_map places one model on all GPUs, so no GPU is left for another process."""
    launch = recipe.launch
    several = launch.num_processes not in ("auto", 1) or launch.strategy in ("ddp", "fsdp", "deepspeed")
    if recipe.model.device_map is not None and several:
        yield Problem(
            "device-map-processes",
            "spreads the model of one process over the GPUs, but `launch` configures several processes.",
            "model.device_map",
            remedy="Keep one: launch for speed, device_map for a model that does not fit on one GPU.",
        )


def ddp_settings_unused(recipe: Recipe) -> Iterator[Problem]:
    """One process has no gradients to exchange."""
    if recipe.launch.num_processes != 1 and recipe.launch.strategy != "single":
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
    if _enabling_key(recipe, "fsdp") and (optimizer.startswith("paged_") or "8bit" in optimizer or "bnb" in optimizer):
        yield Problem(
            "fsdp-8bit-optimizer",
            f"is {optimizer}, whose states FSDP cannot shard.",
            "training.optim",
            remedy="Use adamw_torch_fused: with FSDP, each process stores only its shard of the states.",
        )


def fsdp_quantization(recipe: Recipe) -> Iterator[Problem]:
    """FSDP shards tensors of one type, so packed 4-bit weights need that type; 8-bit weights cannot be sharded."""
    quantization = recipe.quantization
    if not _enabling_key(recipe, "fsdp") or quantization is None:
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
    if (
        training.save_only_model
        and training.load_best_model_at_end
        and (_enabling_key(recipe, "fsdp") or _enabling_key(recipe, "deepspeed"))
    ):
        yield Problem(
            "sharded-best-model",
            "excludes load_best_model_at_end with FSDP or DeepSpeed.",
            "training.save_only_model",
            remedy="Remove one of the two.",
        )


def fsdp_checkpointing_conflict(recipe: Recipe) -> Iterator[Problem]:
    """FSDP has its own activation checkpointing."""
    config = recipe.training.fsdp_config
    if isinstance(config, dict) and config.get("activation_checkpointing") and recipe.training.gradient_checkpointing:
        yield Problem(
            "checkpointing-conflict",
            "is also enabled in fsdp_config.",
            "training.gradient_checkpointing",
            remedy="Keep the one of fsdp_config.",
        )


def reentrant_checkpointing(recipe: Recipe) -> Iterator[Problem]:
    """With frozen weights in DDP, reentrant checkpointing marks a parameter as ready twice or never."""
    several = recipe.launch.num_processes not in ("auto", 1) or recipe.launch.strategy in ("ddp", "fsdp", "deepspeed")
    kwargs = recipe.training.gradient_checkpointing_kwargs or recipe.training.activation_checkpointing_kwargs
    if recipe.lora is not None and several and isinstance(kwargs, dict) and kwargs.get("use_reentrant"):
        name = "gradient" if recipe.training.gradient_checkpointing_kwargs else "activation"
        yield Problem(
            "reentrant-checkpointing",
            "use_reentrant: true fails with an adapter in several processes.",
            f"training.{name}_checkpointing_kwargs",
            remedy="Write {use_reentrant: false}, or remove it: false is the default here.",
        )


def unsupported_processes(recipe: Recipe) -> Iterator[Problem]:
    """This version trains in one process."""
    message = "is not supported in this version."
    if recipe.launch.num_processes not in ("auto", 1):
        yield Problem("unsupported-setting", message, "launch.num_processes", remedy="Use 1 or auto.")
    if recipe.launch.strategy not in ("auto", "single"):
        yield Problem("unsupported-setting", message, "launch.strategy", remedy="Use single or auto.")
