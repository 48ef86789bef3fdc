"""Edge cases of the rules about several processes, FSDP and DeepSpeed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.recipe_problems import HELD_OUT, MODEL, codes_and_paths, problems

ZERO_2 = {"zero_optimization": {"stage": 2}}
MOVED = {"moved-argument"}


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"training": {"fsdp": "full_shard", "deepspeed": ZERO_2}}, {("fsdp-and-deepspeed", "launch.deepspeed_config")}),
        ({"launch": {"fsdp_config": {}, "deepspeed_config": ZERO_2}}, {("fsdp-and-deepspeed", "launch.fsdp_config")}),
        ({"launch": {"strategy": "deepspeed", "fsdp_config": {}}}, {("fsdp-and-deepspeed", "launch.fsdp_config")}),
        ({"launch": {"strategy": "deepspeed"}, "training": {"optim": "paged_adamw_8bit"}}, {("deepspeed-optimizer", "training.optim")}),
        ({"training": {"fsdp": "full_shard", "optim": "adamw_bnb_8bit"}}, {("fsdp-8bit-optimizer", "training.optim")}),
        ({"launch": {"fsdp_config": {}}, "training": {"optim": "adamw_bnb_8bit"}}, {("fsdp-8bit-optimizer", "training.optim")}),
        ({"launch": {"strategy": "ddp", "num_processes": 1}}, {("processes-and-strategy", "launch.strategy")}),
        ({"launch": {"strategy": "single", "num_processes": 2}}, {("processes-and-strategy", "launch.num_processes")}),
        ({"launch": {"strategy": "fsdp", "num_processes": 1}}, set()),
        ({"launch": {"strategy": "deepspeed", "num_processes": 1}}, set()),
        ({"launch": {"num_processes": 8, "num_machines": 2, "machine_rank": 1}}, set()),
        ({"launch": {"num_processes": 2, "num_machines": 4}}, {("processes-and-machines", "launch.num_processes")}),
        ({"launch": {"num_machines": 2, "machine_rank": 2}}, {("processes-and-machines", "launch.machine_rank")}),
        ({"launch": {"strategy": "ddp"}, "training": {"ddp_timeout": 60}}, set()),
        ({"launch": {"strategy": "single"}, "training": {"ddp_timeout": 1800}}, set()),
        ({"launch": {"num_processes": 1}, "training": {"ddp_timeout": 60}}, {("ddp-settings-unused", "training.ddp_timeout")}),
        ({"launch": {"num_processes": 1, "num_cpu_threads_per_process": 2}}, {("launch-settings-unused", "launch.num_cpu_threads_per_process")}),
        ({"launch": {"num_machines": 1, "rdzv_conf": {"timeout": 9}}}, {("launch-settings-unused", "launch.rdzv_conf")}),
        ({"launch": {"strategy": "ddp", "deepspeed_config": ZERO_2}}, {("launch-settings-unused", "launch.deepspeed_config")}),
        (
            {"launch": {"strategy": "fsdp", "fsdp_config": {"activation_checkpointing": True}}, "training": {"gradient_checkpointing": True}},
            {("checkpointing-conflict", "training.gradient_checkpointing")},
        ),
        (
            {"training": {"fsdp": "full_shard", "gradient_checkpointing": True, "fsdp_config": {"activation_checkpointing": True}}},
            {("checkpointing-conflict", "training.gradient_checkpointing")},
        ),
        ({"lora": {}, "training": {"gradient_checkpointing_kwargs": {"use_reentrant": True}}}, set()),
        (
            {"lora": {}, "launch": {"fsdp_config": {}}, "training": {"gradient_checkpointing_kwargs": {"use_reentrant": True}}},
            {("reentrant-checkpointing", "training.gradient_checkpointing_kwargs")},
        ),
        ({"model": {**MODEL, "device_map": "auto"}, "launch": {"fsdp_config": {}}}, {("device-map-processes", "model.device_map")}),
        (
            {
                "launch": {"strategy": "fsdp"}, "lora": {}, "model": {**MODEL, "dtype": "float32"},
                "quantization": {"load_in_4bit": True, "bnb_4bit_quant_storage": "bfloat16"},
            },
            {("fsdp-4bit-storage", "quantization.bnb_4bit_quant_storage")},
        ),
        (
            {"launch": {"strategy": "fsdp"}, "lora": {}, "quantization": {"load_in_8bit": True}},
            {("fsdp-8bit-weights", "quantization.load_in_8bit")},
        ),
        (
            {
                "launch": {"deepspeed_config": {"zero_optimization": {"stage": 3}}}, "lora": {},
                "quantization": {"load_in_4bit": True},
            },
            {("zero3-quantization", "launch.deepspeed_config.zero_optimization.stage")},
        ),
        (
            {"launch": {"deepspeed_config": ZERO_2}, "dataset": HELD_OUT, "training": {"save_only_model": True, "load_best_model_at_end": True}},
            {("sharded-best-model", "training.save_only_model")},
        ),
    ],
)  # fmt: skip
def test_rules_about_several_processes(
    tmp_path: Path, sections: dict[str, Any], expected: set[tuple[str, str]]
) -> None:
    found = problems(tmp_path, **sections)
    assert {(each.code, each.path) for each in found if each.code not in MOVED} == expected


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({}, ""),
        ({"zero_optimization": {"stage": 0}}, "zero_optimization.stage"),
        ({"zero_optimization": {"stage": True}}, "zero_optimization.stage"),
        ({**ZERO_2, "gradient_clipping": 1.0}, "gradient_clipping"),
        ({**ZERO_2, "bf16": {"enabled": True}}, "bf16.enabled"),
        ({**ZERO_2, "optimizer": {"type": "AdamW"}}, "optimizer"),
        ({**ZERO_2, "train_batch_size": 32}, "train_batch_size"),
        ({**ZERO_2, "train_batch_size": "auto", "bf16": {"enabled": "auto"}, "fp16": {"enabled": False}}, None),
        ({**ZERO_2, "gradient_accumulation_steps": "auto", "zero_allow_untested_optimizer": True}, None),
    ],
)
def test_a_setting_of_deepspeed_that_is_a_training_argument_is_refused(
    tmp_path: Path, config: dict[str, Any], key: str | None
) -> None:
    path = "launch.deepspeed_config" + (f".{key}" if key else "")
    expected = set() if key is None else {("deepspeed-config", path)}
    assert codes_and_paths(tmp_path, launch={"deepspeed_config": config}) == expected


@pytest.mark.parametrize(
    ("launch", "path", "remedy"),
    [
        ({"mixed_precision": "bf16"}, "launch.mixed_precision", "training.bf16"),
        ({"dynamo_backend": "inductor"}, "launch.dynamo_backend", "training.torch_compile"),
        ({"max_restarts": 3}, "launch.max_restarts", "--resume auto"),
        ({"parallelism_config": {}}, "launch.parallelism_config", "strategy: fsdp"),
        ({"fsdp_config": {"fsdp_offload_params": True}}, "launch.fsdp_config.fsdp_offload_params", "`offload_params`"),
        ({"fsdp_config": {"sharding_strategy": 1}}, "launch.fsdp_config.sharding_strategy", "`reshard_after_forward`"),
        ({"fsdp_config": {"use_orig_params": True}}, "launch.fsdp_config.use_orig_params", "Remove it."),
    ],
)
def test_a_setting_of_accelerate_that_is_elsewhere_is_refused_with_its_place(
    tmp_path: Path, launch: dict[str, Any], path: str, remedy: str
) -> None:
    (problem,) = problems(tmp_path, launch=launch)
    assert (problem.code, problem.path) == ("unsupported-launch-setting", path)
    assert remedy in str(problem.remedy)


def test_every_setting_of_accelerates_launcher_has_a_field_or_a_reason() -> None:
    import dataclasses

    from accelerate.commands.config.config_args import ClusterConfig
    from accelerate.utils import FullyShardedDataParallelPlugin

    from orpo_cli.recipe.legacy.fsdp_config import NAMES, RENAMED, WITHOUT_COUNTERPART
    from orpo_cli.recipe.legacy.unsupported_launch_args import UNSUPPORTED_LAUNCH_ARGS
    from orpo_cli.recipe.schema import LaunchSection

    names = {field.name for field in dataclasses.fields(ClusterConfig)} - {"command_file", "commands"}
    assert names <= LaunchSection.model_fields.keys() | UNSUPPORTED_LAUNCH_ARGS.keys()
    plugin = {field.name for field in dataclasses.fields(FullyShardedDataParallelPlugin)}
    in_python_only = {
        "state_dict_config", "optim_state_dict_config", "param_init_fn", "transformer_cls_names_to_wrap",
    }  # fmt: skip
    assert plugin - in_python_only <= {*NAMES, *RENAMED, *WITHOUT_COUNTERPART}
