"""Configuration of DeepSpeed for a training: that of the plan, completed by the training arguments and the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class ZeroSettings:
    """Settings of a training with ZeRO: DeepSpeed's configuration of the plan, and what the training arguments say."""

    config: Mapping[str, Any]
    batch_size: int
    max_grad_norm: float
    bf16: bool
    fp16: bool
    device: torch.device
    resumed: bool


def zero_stage(config: Mapping[str, Any] | None) -> int:
    """The stage of ZeRO in DeepSpeed's configuration; 0 without one."""
    return 0 if config is None else int(config["zero_optimization"]["stage"])


def complete_config(settings: ZeroSettings, model: Any) -> dict[str, Any]:
    """The configuration of the plan with the training arguments in it. Other values `auto` are DeepSpeed's defaults."""
    trained = [each for each in model.parameters() if each.requires_grad]
    bf16 = not settings.fp16 and (settings.bf16 or any(each.dtype == torch.bfloat16 for each in trained))
    hidden_size = model.config.get_text_config().hidden_size
    config = _without_auto(settings.config)
    zero = {**_automatic_sizes(settings.config["zero_optimization"], hidden_size), **config["zero_optimization"]}
    for name in ("train_batch_size", "optimizer", "scheduler", "activation_checkpointing"):
        config.pop(name, None)
    return {
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # it compiles its own
        **config,
        "zero_optimization": zero,
        "train_micro_batch_size_per_gpu": settings.batch_size,
        "gradient_accumulation_steps": 1,  # the trainer says which pass is the last one
        "gradient_clipping": settings.max_grad_norm,
        "bf16": {**config.get("bf16", {}), "enabled": bf16},
        "fp16": {**config.get("fp16", {}), "enabled": settings.fp16},
    }


def _automatic_sizes(zero: Mapping[str, Any], hidden_size: int) -> dict[str, int]:
    """The sizes that transformers gives to values `auto`."""
    sizes = {
        "reduce_bucket_size": hidden_size**2,
        "stage3_prefetch_bucket_size": int(0.9 * hidden_size**2),
        "stage3_param_persistence_threshold": 10 * hidden_size,
    }
    return {name: size for name, size in sizes.items() if zero.get(name) == "auto"}


def _without_auto(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_auto(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if value != "auto"
    }
