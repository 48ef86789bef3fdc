"""accelerate: configurations of `accelerate config`, alone or beside a configuration of another tool, and flags of `accelerate launch`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

from orpo_cli.recipe.convert.draft import Draft
from orpo_cli.recipe.convert.launch.deepspeed import SEE_KEYS, keep_deepspeed, keep_or_ignore
from orpo_cli.recipe.convert.launch.fsdp import convert_fsdp
from orpo_cli.recipe.convert.launch.referenced_file import read_mapping
from orpo_cli.recipe.legacy.unsupported_launch_args import UNSUPPORTED_LAUNCH_ARGS

STRATEGIES = {"NO": "single", "MULTI_GPU": "ddp", "MULTI_CPU": "ddp", "FSDP": "fsdp", "DEEPSPEED": "deepspeed"}
FIELDS = (
    "num_processes", "num_machines", "main_process_ip", "main_process_port", "gpu_ids", "num_cpu_threads_per_process",
    "enable_cpu_affinity", "monitor_interval",
)  # fmt: skip
SECTIONS = ("fsdp_config", "deepspeed_config", "dynamo_config")
# Values that are the same here, or turn off what is off here. False and empty values are so for every key.
NOOP_VALUES: Mapping[str, tuple[Any, ...]] = {
    "compute_environment": ("LOCAL_MACHINE",),
    "downcast_bf16": ("no",),
    "main_training_function": ("main",),
    "rdzv_backend": ("static", "c10d"),
    "same_network": (True,),
    "num_processes": (-1,),
    "gpu_ids": ("all",),
    "num_machines": (1,),
    "mixed_precision": ("no",),
    "dynamo_backend": ("no", "NO"),
    "max_restarts": (0,),
}
OTHER_REASONS = {
    "machine_rank": "It differs between the machines: set it on each, --set launch.machine_rank=K.",
    "commands": UNSUPPORTED_LAUNCH_ARGS["tpu"].reason,
    "command_file": UNSUPPORTED_LAUNCH_ARGS["tpu"].reason,
    "role": "It is a name in the log of torch's launcher.",
    "module": "`orpo train` is the program.",
    "no_python": "`orpo train` is the program.",
    "quiet": "`orpo train --quiet` shows less.",
}
DEEPSPEED_FIELDS = {
    "zero_stage": "stage",
    "offload_optimizer_device": "offload_optimizer.device",
    "offload_param_device": "offload_param.device",
    "offload_optimizer_nvme_path": "offload_optimizer.nvme_path",
    "offload_param_nvme_path": "offload_param.nvme_path",
    "zero3_save_16bit_model": "stage3_gather_16bit_weights_on_model_save",
}
DEEPSPEED_REASONS = {
    "zero3_init_flag": "With stage 3, weights are always divided while the model is loaded.",
    "deepspeed_moe_layer_cls_names": "Experts are divided like other weights.",
    "deepspeed_exclusion_filter": "Use launch.gpu_ids.",
    "deepspeed_inclusion_filter": "Use launch.gpu_ids.",
}
TRAINING_ARGS = {
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "gradient_clipping": "training.max_grad_norm",
}
DYNAMO = {"backend": "training.torch_compile_backend", "mode": "training.torch_compile_mode"}


def convert(draft: Draft, folders: Sequence[FilePath]) -> None:
    """Convert a configuration of accelerate that is a file of its own."""
    config = dict(draft.source)
    draft.source.clear()
    convert_accelerate(draft, "", config, folders)


def keep_accelerate_file(draft: Draft, key: str, name: str, folders: Sequence[FilePath]) -> None:
    """Convert the configuration of accelerate in the file ``name``, which another tool has at ``key``."""
    config = read_mapping(name, folders, ("distributed_type", "compute_environment"))
    if isinstance(config, str):
        draft.record(key, name, "left-out", None, f"{config}. Convert it with --accelerate-config.")
        return
    draft.record(key, name, "kept", None, f"The content of {name}.")
    convert_accelerate(draft, f"{key}.", config, folders)


def convert_accelerate(draft: Draft, prefix: str, config: Mapping[str, Any], folders: Sequence[FilePath]) -> None:
    """Convert each key of ``config``; ``prefix`` precedes their names in outcomes."""
    for key in SECTIONS:
        if not prefix and isinstance(config.get(key), dict):
            draft.record(key, config[key], "kept", None, SEE_KEYS)
    for key, value in sorted(config.items(), key=lambda item: item[0] != "distributed_type"):  # others refine it
        name = f"{prefix}{key}"
        if value is None or value is False or value in ("", {}, []) or value in NOOP_VALUES.get(key, ()):
            draft.record(name, value, "empty")
        elif key == "distributed_type":
            _strategy(draft, name, value)
        elif key in FIELDS:
            draft.put(name, value, f"launch.{key}")
        elif key == "fsdp_config" and isinstance(value, dict):
            convert_fsdp(draft, f"{name}.", value)
        elif key == "deepspeed_config" and isinstance(value, dict):
            _deepspeed(draft, f"{name}.", value, folders)
        elif key == "config_file":
            keep_accelerate_file(draft, name, str(value), folders)
        elif key == "dynamo_config" and isinstance(value, dict):
            _dynamo(draft, f"{name}.", value)
        elif key == "mixed_precision" and value in ("bf16", "fp16"):
            keep_or_ignore(draft, name, value, f"training.{value}", True)
        elif key in ("use_cpu", "cpu") and value is True:
            keep_or_ignore(draft, name, value, "training.use_cpu")
        elif key in TRAINING_ARGS:
            keep_or_ignore(draft, name, value, TRAINING_ARGS[key])
        elif key == "machine_rank" and config.get("num_machines", 1) == 1:
            draft.record(name, value, "empty")
        elif key in SECTIONS:
            draft.record(name, value, "left-out", None, "It is not a mapping.")
        elif key in OTHER_REASONS:
            draft.record(name, value, "left-out", None, OTHER_REASONS[key])
        elif key in UNSUPPORTED_LAUNCH_ARGS:
            policy = UNSUPPORTED_LAUNCH_ARGS[key]
            remedy = "" if policy.remedy == "Remove it." else f" {policy.remedy}"
            draft.record(name, value, "left-out", None, policy.reason + remedy)
        else:
            draft.record(name, value, "unknown")


def _strategy(draft: Draft, name: str, value: Any) -> None:
    kind = str(value).upper()
    if kind not in STRATEGIES:
        draft.record(
            name, value, "left-out", None, "orpo-cli trains with DDP, FSDP or DeepSpeed, on CPUs and CUDA GPUs."
        )
        return
    if kind in ("NO", "MULTI_GPU") and draft.has_value("launch.strategy"):
        draft.record(name, value, "ignored", None, "The training arguments enable FSDP or DeepSpeed.")
        return
    draft.put(name, value, "launch.strategy", None, STRATEGIES[kind])
    if kind == "MULTI_CPU":
        draft.add("training.use_cpu", True, f"{name}: {value}")


def _deepspeed(draft: Draft, prefix: str, config: Mapping[str, Any], folders: Sequence[FilePath]) -> None:
    for key, value in config.items():
        name, field = f"{prefix}{key}", DEEPSPEED_FIELDS.get(key)
        if value is None or value is False or value in ("", "none", "auto"):
            draft.record(name, value, "empty")
        elif key == "deepspeed_config_file":
            keep_deepspeed(draft, name, value, folders)
        elif key == "zero_stage" and value == 0:
            draft.put(name, value, "launch.strategy", "stage 0 divides nothing", "ddp")
        elif field is not None:
            draft.put(name, value, f"launch.deepspeed_config.zero_optimization.{field}")
        elif key in TRAINING_ARGS:
            keep_or_ignore(draft, name, value, TRAINING_ARGS[key])
        elif key in UNSUPPORTED_LAUNCH_ARGS or key in DEEPSPEED_REASONS:
            policy = UNSUPPORTED_LAUNCH_ARGS.get(key)
            reason = DEEPSPEED_REASONS[key] if policy is None else f"{policy.reason} {policy.remedy}"
            draft.record(name, value, "left-out", None, reason)
        else:
            draft.record(name, value, "unknown")


def _dynamo(draft: Draft, prefix: str, config: Mapping[str, Any]) -> None:
    compiles = str(config.get("dynamo_backend", "no")).lower() != "no"
    for key, value in config.items():
        name, setting = f"{prefix}{key}", key.removeprefix("dynamo_")
        if not compiles or value in (None, False, "default"):
            draft.record(name, value, "empty")
        elif setting in DYNAMO:
            keep_or_ignore(draft, name, value, DYNAMO[setting], str(value).lower() if setting == "backend" else value)
        else:
            draft.record(name, value, "left-out", None, "transformers does not pass it to torch.compile.")
    if compiles:
        draft.add("training.torch_compile", True, f"{prefix}dynamo_backend")
