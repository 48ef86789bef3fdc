"""DeepSpeed: its JSON configuration, alone or as another tool refers to it.

Settings that are training arguments move to `training`; the rest becomes `launch.deepspeed_config`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

from orpo_cli.recipe.convert.draft import Draft
from orpo_cli.recipe.convert.launch.referenced_file import deepspeed_config_of_name, read_mapping

CONFIG = "launch.deepspeed_config"
BATCH_KEYS = {
    "train_micro_batch_size_per_gpu": "training.per_device_train_batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "gradient_clipping": "training.max_grad_norm",
}
OPTIMIZERS = {"adam": "adamw_torch", "adamw": "adamw_torch"}
OPTIMIZER_PARAMS = {
    "lr": "training.learning_rate",
    "eps": "training.adam_epsilon",
    "weight_decay": "training.weight_decay",
}
SCHEDULERS = {"WarmupLR": "constant_with_warmup", "WarmupDecayLR": "linear", "WarmupCosineLR": "cosine"}
SCHEDULER_PARAMS = {"warmup_num_steps": "training.warmup_steps", "warmup_max_lr": "training.learning_rate"}
SEE_KEYS = "See its keys."
FOLLOWS = "It follows from other settings."
ELSEWHERE: Mapping[str, str] = {
    "activation_checkpointing": "Use training.gradient_checkpointing.",
    "tensorboard": "Use training.report_to.",
    "wandb": "Use training.report_to.",
    "csv_monitor": "metrics.jsonl has every logged value.",
    "comet": "Use training.report_to.",
    "autotuning": "orpo-cli chooses micro-batches by their tokens.",
    "elasticity": "Resume with `orpo train RECIPE --resume auto`.",
    "curriculum_learning": "Pairs are drawn in random order.",
    "data_efficiency": "Pairs are drawn in random order.",
    "compression_training": "Compress the exported model.",
    "sparse_attention": "model.attn_implementation sets the attention.",
    "amp": "Use training.bf16 or training.fp16.",
    "data_types": "Gradients are summed in float32.",
    "flops_profiler": "The run directory has throughput and time.",
}
SECTIONS = ("bf16", "bfloat16", "fp16", "optimizer", "scheduler")
# Settings that DeepSpeed has and that stay in its configuration.
KEPT = frozenset(
    [
        "zero_optimization", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "communication_data_type",
        "prescale_gradients", "gradient_predivide_factor", "sparse_gradients", "steps_per_print", "wall_clock_breakdown",
        "dump_state", "disable_allgather", "memory_breakdown", "aio", "comms_logger", "checkpoint", "seq_parallel_communication_data_type",
        "timers", "compile", "graph_harvesting", "train_steps", "memory_usage",
    ]
)  # fmt: skip


def convert(draft: Draft) -> None:
    """Convert a configuration of DeepSpeed that is a file of its own."""
    config = dict(draft.source)
    draft.source.clear()
    convert_deepspeed(draft, "", config)


def keep_deepspeed(draft: Draft, key: str, value: Any, folders: Sequence[FilePath]) -> None:
    """Convert ``value``, which another tool has at ``key``: a configuration of DeepSpeed, or the name of its file."""
    if isinstance(value, dict):
        draft.record(key, value, "kept", None, SEE_KEYS)
        convert_deepspeed(draft, f"{key}.", value)
        return
    if not isinstance(value, str):
        draft.record(key, value, "empty" if not value else "left-out", None, "It is neither a mapping nor a file.")
        return
    config = read_mapping(value, folders, ("zero_optimization",))
    if isinstance(config, str):
        by_name = deepspeed_config_of_name(value)
        if by_name is None:
            draft.record(key, value, "left-out", None, f"{config}. Write its content to {CONFIG}.")
            return
        draft.record(key, value, "kept", None, f"{config}: taken from its name.")
        draft.remarks.append(
            f"{key}: {value}: {config[0].lower()}{config[1:]}. Stage and offloading are taken from its name."
        )
        convert_deepspeed(draft, f"{key}.", by_name)
        return
    draft.record(key, value, "kept", None, f"The content of {value}.")
    convert_deepspeed(draft, f"{key}.", config)


def convert_deepspeed(draft: Draft, prefix: str, config: Mapping[str, Any]) -> None:
    """Convert each key of ``config``; ``prefix`` precedes their names in outcomes."""
    stage = config["zero_optimization"].get("stage", 0) if isinstance(config.get("zero_optimization"), dict) else 0
    for key, value in config.items():
        name = f"{prefix}{key}"
        if not prefix and isinstance(value, dict):
            draft.record(key, value, "kept", None, SEE_KEYS)
        if value is None or value in ("auto", "", {}, []):
            draft.record(name, value, "empty")
        elif key in BATCH_KEYS:
            keep_or_ignore(draft, name, value, BATCH_KEYS[key])
        elif key == "train_batch_size":
            _pairs_of_a_step(draft, name, value, config)
        elif key in ("bf16", "fp16", "bfloat16") and isinstance(value, dict):
            _precision(draft, name, "bf16" if key == "bfloat16" else key, value)
        elif key == "optimizer" and isinstance(value, dict):
            _optimizer(draft, name, value)
        elif key == "scheduler" and isinstance(value, dict):
            _scheduler(draft, name, value)
        elif key in ELSEWHERE:
            off = isinstance(value, dict) and value.get("enabled") is False
            draft.record(name, value, "empty" if off else "left-out", None, ELSEWHERE[key])
        elif key in SECTIONS:
            draft.record(name, value, "empty" if value is False else "left-out", None, "It is not a mapping.")
        elif key not in KEPT:
            draft.record(name, value, "unknown")
        elif stage == 0:
            draft.record(name, value, "left-out", None, "Stage 0 divides nothing: DDP does the same.")
        else:
            _keep_leaves(draft, name, value, f"{CONFIG}.{key}")
    note = "DeepSpeed's configuration" if stage else "stage 0 of DeepSpeed divides nothing"
    draft.add("launch.strategy", "deepspeed" if stage else "ddp", note)


def keep_or_ignore(draft: Draft, name: str, value: Any, path: str, converted: Any = ...) -> None:
    """Put a value at ``path``, unless the training arguments of the tool have one there."""
    if draft.has_value(path):
        draft.record(name, value, "ignored", None, f"The training arguments set {path}.")
    else:
        draft.put(name, value, path, value=converted)


def _keep_leaves(draft: Draft, name: str, value: Any, path: str) -> None:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            _keep_leaves(draft, f"{name}.{key}", inner, f"{path}.{key}")
    elif value is None:
        draft.record(name, value, "empty")
    else:
        draft.put(name, value, path)


def _pairs_of_a_step(draft: Draft, name: str, value: Any, config: Mapping[str, Any]) -> None:
    """The pairs of a step on all processes: with the other two numbers, it says how many processes there are."""
    parts = [config.get("train_micro_batch_size_per_gpu"), config.get("gradient_accumulation_steps", 1)]
    numbers = [each for each in (value, *parts) if isinstance(each, int) and not isinstance(each, bool) and each > 0]
    if len(numbers) == 3 and value % (numbers[1] * numbers[2]) == 0 and not draft.has_value("launch.num_processes"):
        note = f"{value} pairs a step / ({numbers[1]} × {numbers[2]})"
        draft.put(name, value, "launch.num_processes", note, value // (numbers[1] * numbers[2]))
    else:
        draft.record(name, value, "left-out", None, f"It is the number of pairs in a step. {FOLLOWS}")


def _precision(draft: Draft, name: str, key: str, value: dict[str, Any]) -> None:
    enabled = value.get("enabled", False)
    if enabled is True:
        keep_or_ignore(draft, f"{name}.enabled", enabled, f"training.{key}")
    else:
        draft.record(f"{name}.enabled", enabled, "empty")
    for inner, setting in value.items():
        if inner != "enabled":
            note = "The loss of float16 is scaled by torch." if key == "fp16" else "Gradients are summed in float32."
            draft.record(f"{name}.{inner}", setting, "empty" if enabled is False else "left-out", None, note)


def _optimizer(draft: Draft, name: str, value: dict[str, Any]) -> None:
    kind = str(value.get("type", ""))
    if kind.lower() in OPTIMIZERS:
        keep_or_ignore(draft, f"{name}.type", kind, "training.optim", OPTIMIZERS[kind.lower()])
    else:
        draft.record(f"{name}.type", kind, "left-out", None, "Use training.optim.")
    parameters = value.get("params")
    for key, setting in parameters.items() if isinstance(parameters, dict) else ():
        inner = f"{name}.params.{key}"
        if setting is None or setting == "auto":
            draft.record(inner, setting, "empty")
        elif key in OPTIMIZER_PARAMS:
            keep_or_ignore(draft, inner, setting, OPTIMIZER_PARAMS[key])
        elif key == "betas" and isinstance(setting, list) and len(setting) == 2:
            for number, beta in enumerate(setting, start=1):
                keep_or_ignore(draft, f"{inner}[{number - 1}]", beta, f"training.adam_beta{number}")
        else:
            draft.record(inner, setting, "left-out", None, "Use training.optim and training.optim_args.")
    _other_keys(draft, name, value)


def _scheduler(draft: Draft, name: str, value: dict[str, Any]) -> None:
    kind = str(value.get("type", ""))
    if kind in SCHEDULERS:
        keep_or_ignore(draft, f"{name}.type", kind, "training.lr_scheduler_type", SCHEDULERS[kind])
    else:
        draft.record(f"{name}.type", kind, "left-out", None, "Use training.lr_scheduler_type.")
    parameters = value.get("params")
    for key, setting in parameters.items() if isinstance(parameters, dict) else ():
        inner = f"{name}.params.{key}"
        if setting is None or setting == "auto" or (key == "warmup_min_lr" and setting == 0):
            draft.record(inner, setting, "empty")
        elif key in SCHEDULER_PARAMS:
            keep_or_ignore(draft, inner, setting, SCHEDULER_PARAMS[key])
        elif key == "total_num_steps":
            draft.record(inner, setting, "left-out", None, FOLLOWS)
        else:
            draft.record(inner, setting, "left-out", None, "The warm-up is linear and starts at zero.")
    _other_keys(draft, name, value)


def _other_keys(draft: Draft, name: str, value: Mapping[str, Any]) -> None:
    for key, setting in value.items():
        if key not in ("type", "params"):
            draft.record(f"{name}.{key}", setting, "unknown")
