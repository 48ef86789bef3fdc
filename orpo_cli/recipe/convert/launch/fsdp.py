"""FSDP: settings of FSDP 1 and 2, as accelerate and transformers have them, become `launch.fsdp_config`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orpo_cli.recipe.convert.draft import Draft
from orpo_cli.recipe.convert.launch.deepspeed import keep_or_ignore
from orpo_cli.recipe.legacy.fsdp_config import SHARDING_STRATEGIES, fsdp_setting

OPTIONS = ("full_shard", "auto_wrap", "offload", "shard_grad_op", "fsdp2")


def convert_fsdp(draft: Draft, prefix: str, config: Mapping[str, Any]) -> None:
    """Convert each key of an ``fsdp_config``; ``prefix`` precedes their names in outcomes."""
    for key, value in config.items():
        name, setting = f"{prefix}{key}", fsdp_setting(key, value)
        if not setting.known:
            draft.record(name, value, "unknown")
        elif setting.name == "activation_checkpointing":
            if setting.value is True:
                keep_or_ignore(draft, name, value, "training.gradient_checkpointing", True)
            else:
                draft.record(name, value, "empty")
        elif setting.name is not None:
            note = None if setting.note is None else f"{value}, {setting.note}"
            draft.put(name, value, f"launch.fsdp_config.{setting.name}", setting.note and note, setting.value)
        elif not setting.noop and _is_no_shard(key, value):
            draft.put(name, value, "launch.strategy", "without sharding, FSDP is DDP", "ddp")
        else:
            draft.record(name, value, "empty" if setting.noop else "left-out", None, setting.note)
    draft.add("launch.strategy", "fsdp", "the configuration is of FSDP")


def _is_no_shard(key: str, value: Any) -> bool:
    name = key.removeprefix("fsdp_")
    number = list(SHARDING_STRATEGIES).index("NO_SHARD") + 1
    return name in ("sharding_strategy", "reshard_after_forward") and str(value).upper() in ("NO_SHARD", str(number))


def is_default(config: Mapping[str, Any]) -> bool:
    """Whether no key of an ``fsdp_config`` has an effect: transformers prints such a configuration if FSDP is off."""
    return all(fsdp_setting(key, value).noop for key, value in config.items())


def keep_fsdp_options(draft: Draft, key: str, value: Any) -> None:
    """Convert the argument ``fsdp`` of transformers: true, or options such as ``full_shard auto_wrap offload``."""
    options = value.split() if isinstance(value, str) else value if isinstance(value, list) else [value]
    if options in ([], [False], [None]):
        draft.record(key, value, "empty")
        return
    if other := [option for option in options if option is not True and option not in OPTIONS]:
        draft.put(key, value, "launch.strategy", f"{other[0]} has no counterpart in FSDP 2 here", "fsdp")
    else:
        draft.put(key, value, "launch.strategy", None, "fsdp")
    if "offload" in options:
        draft.add("launch.fsdp_config.offload_params", True, f"{key}: offload")
    if "shard_grad_op" in options:
        draft.add("launch.fsdp_config.reshard_after_forward", False, f"{key}: shard_grad_op")
