"""FSDP settings of accelerate and transformers, of FSDP 1 and 2, as `launch.fsdp_config`.

accelerate writes each key with the prefix ``fsdp_``, transformers without it; both are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orpo_cli.recipe.schema.launch import FsdpConfig

# FSDP 1's strategies in the order of their numbers, with the reason why one has no counterpart in FSDP 2 here.
SHARDING_STRATEGIES: Mapping[str, bool | str] = {
    "FULL_SHARD": True,
    "SHARD_GRAD_OP": False,
    "NO_SHARD": "Without sharding, each process has the whole model: use `strategy: ddp`.",
    "HYBRID_SHARD": "Weights are sharded over all processes, not over those of one machine.",
    "HYBRID_SHARD_ZERO2": "Weights are sharded over all processes, not over those of one machine.",
}
RENAMED = {"sharding_strategy": "reshard_after_forward", "cpu_offload": "offload_params"}
NAMES = frozenset(FsdpConfig.model_fields)
WITHOUT_COUNTERPART: Mapping[str, str] = {
    "version": "FSDP 2 is always used.",
    "fsdp_version": "FSDP 2 is always used.",
    "auto_wrap_policy": "Decoder layers are always wrapped one by one.",
    "min_num_params": "Decoder layers are wrapped one by one, whatever their size.",
    "final_state_dict_type": "The result is written as one process writes it.",
    "state_dict_type": "Checkpoints are written as one process writes them, so that they load on any number of processes.",
    "backward_prefetch": "It is a setting of FSDP 1; FSDP 2 prefetches by itself.",
    "forward_prefetch": "It is a setting of FSDP 1.",
    "use_orig_params": "It is a setting of FSDP 1; FSDP 2 always uses the original parameters.",
    "sync_module_states": "It is a setting of FSDP 1; all processes start from the same weights.",
    "limit_all_gathers": "It is a setting of FSDP 1.",
    "mixed_precision_policy": "`training.bf16` and `training.fp16` set the precision.",
    "ignored_modules": "All weights are sharded.",
    "activation_checkpointing_offload": "Activations are not offloaded; a smaller `engine.max_tokens_per_microbatch` needs less memory.",
    "xla": "orpo-cli does not train on TPUs.",
    "xla_fsdp_v2": "orpo-cli does not train on TPUs.",
    "xla_fsdp_grad_ckpt": "orpo-cli does not train on TPUs.",
    "xla_fsdp_settings": "orpo-cli does not train on TPUs.",
}
# Values that are the same here, or turn off what is off here.
NOOP_VALUES: Mapping[str, tuple[Any, ...]] = {
    "version": (2,),
    "auto_wrap_policy": ("TRANSFORMER_BASED_WRAP",),
    "min_num_params": (0,),
    "state_dict_type": ("FULL_STATE_DICT",),
}
BOOLEANS = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False}


@dataclass(frozen=True)
class FsdpSetting:
    """One setting in terms of `launch.fsdp_config`: ``name`` and ``value``, or the reason why it has none in ``note``.

    ``noop``: the setting is the same here or off. ``known``: accelerate or transformers has it.
    """

    name: str | None
    value: Any = None
    note: str | None = None
    noop: bool = False
    known: bool = True


def fsdp_setting(key: str, value: Any) -> FsdpSetting:
    """The setting ``key`` of accelerate or transformers."""
    name = key.removeprefix("fsdp_")
    name, former = RENAMED.get(name, name), name
    if value is None or value == "":
        return FsdpSetting(None, noop=True, known=name in NAMES or name in WITHOUT_COUNTERPART)
    if name in WITHOUT_COUNTERPART:
        same = value is False or any(value == each for each in NOOP_VALUES.get(name, ()))
        return FsdpSetting(None, note=WITHOUT_COUNTERPART[name], noop=same)
    if name not in NAMES:
        return FsdpSetting(None, known=False)
    if name == "reshard_after_forward":
        return _reshard(value, former)
    if name == "transformer_layer_cls_to_wrap":
        classes = value if isinstance(value, list) else [each.strip() for each in str(value).split(",") if each.strip()]
        return FsdpSetting(name, classes)
    return FsdpSetting(name, BOOLEANS.get(value.lower(), value) if isinstance(value, str) else value)


def _reshard(value: Any, former: str) -> FsdpSetting:
    """FSDP 2 has a boolean; FSDP 1 has the name or the number of a strategy."""
    text = str(value).upper()
    if isinstance(value, bool) or text.lower() in BOOLEANS:
        return FsdpSetting("reshard_after_forward", value if isinstance(value, bool) else BOOLEANS[text.lower()])
    names = list(SHARDING_STRATEGIES)
    if text.isdigit() and 1 <= int(text) <= len(names):
        text = names[int(text) - 1]
    reshard = SHARDING_STRATEGIES.get(text, "FSDP has no such strategy.")
    if isinstance(reshard, str):
        return FsdpSetting(None, note=f"{former}: {text} is not supported. {reshard}")
    return FsdpSetting("reshard_after_forward", reshard, f"{text} of FSDP 1")


def fsdp2_config(config: Any) -> dict[str, Any]:
    """The values of `launch.fsdp_config` for a ``fsdp_config`` of transformers. Raises ValueError if it has none."""
    if not isinstance(config, Mapping):
        raise ValueError("must be a mapping; write the content of the file")
    result: dict[str, Any] = {}
    for key, value in config.items():
        setting = fsdp_setting(str(key), value)
        if not setting.known:
            raise ValueError(f"must have the keys of FSDP, which has no {key}")
        if setting.name is not None:
            result[setting.name] = setting.value
        elif not setting.noop and key.removeprefix("fsdp_") in (*RENAMED, *NAMES):
            raise ValueError(f"must be supported by FSDP 2 here. {setting.note}")
    return result


def fsdp_strategy(value: Any) -> str:
    """`launch.strategy` for the argument ``fsdp`` of transformers. Raises ValueError for options with a setting of their own."""
    options = value.split() if isinstance(value, str) else value if isinstance(value, list) else [value]
    if options and all(option in ("full_shard", "auto_wrap") or option is True for option in options):
        return "fsdp"
    raise ValueError(
        "must be true or full_shard; use `launch.fsdp_config` with `reshard_after_forward: false` for shard_grad_op and "
        "`offload_params: true` for offload"
    )
