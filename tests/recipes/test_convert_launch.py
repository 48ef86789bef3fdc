"""Conversion of accelerate's and DeepSpeed's configurations, alone and where another tool refers to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trl
import yaml

from orpo_cli.recipe.convert.convert import Conversion, convert
from orpo_cli.recipe.load import load_recipe

LIBRARY_CONFIGS = sorted((Path(trl.__file__).parent / "accelerate_configs").glob("*.yaml"))
AXOLOTL = "base_model: a/b\nrl: orpo\n"
FACTORY = "model_name_or_path: a/b\nstage: orpo\nfinetuning_type: full\ndataset: orca_pairs\n"
TRL = "model_name_or_path: a/b\ndataset_name: c/d\n"


def outcomes(conversion: Conversion) -> dict[str, str]:
    return {outcome.key: outcome.outcome for outcome in conversion.outcomes}


def converted(folder: Path, text: str, name: str = "x.yaml", **options: Any) -> Conversion:
    """The conversion, whose recipe is valid and without warnings."""
    conversion = convert(text, name, folders=[folder], **options)
    (folder / "recipe.yaml").write_text(conversion.text)
    assert load_recipe(str(folder / "recipe.yaml")).warnings == ()
    return conversion


@pytest.mark.parametrize("path", LIBRARY_CONFIGS, ids=lambda path: path.stem)
def test_every_key_of_the_configurations_of_trl_has_an_outcome(path: Path, tmp_path: Path) -> None:
    text = path.read_text()
    conversion = converted(tmp_path, text, path.name)
    config, launch = yaml.safe_load(text), conversion.values["launch"]
    nested = [f"{key}.{inner}" for key, value in config.items() if isinstance(value, dict) for inner in value]
    assert {*config, *nested} <= outcomes(conversion).keys()
    assert "unknown" not in outcomes(conversion).values()
    strategy = {"NO": "single", "MULTI_GPU": "ddp"}.get(config["distributed_type"], config["distributed_type"].lower())
    assert launch["strategy"] == strategy
    assert launch.get("num_processes") == (None if strategy == "single" else 8)
    stage = config.get("deepspeed_config", {}).get("zero_stage")
    assert launch.get("deepspeed_config", {}).get("zero_optimization", {}).get("stage") == stage
    assert conversion.values["training"]["bf16"] is True


def test_hybrid_sharding_is_left_out_with_the_reason(tmp_path: Path) -> None:
    text = "distributed_type: FSDP\nfsdp_config: {fsdp_sharding_strategy: HYBRID_SHARD}\n"
    conversion = converted(tmp_path, text)
    assert outcomes(conversion)["fsdp_config.fsdp_sharding_strategy"] == "left-out"
    assert "Weights are sharded over all processes" in conversion.text
    assert conversion.values["launch"] == {"strategy": "fsdp"}


@pytest.mark.parametrize(
    "text",
    [
        "distributed_type: FSDP\nfsdp_config: {fsdp_sharding_strategy: NO_SHARD, fsdp_offload_params: false}\n",
        "deepspeed_config: {zero_stage: 0}\ndistributed_type: DEEPSPEED\n",
        "zero_optimization: {stage: 0, overlap_comm: true}\n",
    ],
)
def test_without_sharding_the_strategy_is_ddp(text: str, tmp_path: Path) -> None:
    assert converted(tmp_path, text).values["launch"] == {"strategy": "ddp"}


@pytest.mark.parametrize("kind", ["MEGATRON_LM", "XLA", "MULTI_XPU"])
def test_other_kinds_of_training_are_left_out(kind: str, tmp_path: Path) -> None:
    conversion = converted(tmp_path, f"distributed_type: {kind}\nnum_processes: 4\nmegatron_lm_config: {{tp: 2}}\n")
    found = outcomes(conversion)
    assert (found["distributed_type"], found["megatron_lm_config"]) == ("left-out", "left-out")
    assert conversion.values["launch"] == {"num_processes": 4}


def test_processes_on_cpus_use_the_cpu(tmp_path: Path) -> None:
    values = converted(tmp_path, "distributed_type: MULTI_CPU\nnum_processes: 2\nmixed_precision: 'no'\n").values
    assert values["launch"] == {"strategy": "ddp", "num_processes": 2}
    assert values["training"] == {"use_cpu": True}


@pytest.mark.parametrize(
    ("text", "stage", "offloads"),
    [
        (f"{AXOLOTL}deepspeed: deepspeed_configs/zero3_bf16_cpuoffload_params.json\n", 3, True),
        (f"{AXOLOTL}deepspeed: deepspeed_configs/zero1.json\n", 1, False),
        (f"{FACTORY}deepspeed: examples/deepspeed/ds_z2_offload_config.json\n", 2, True),
        ("swift rlhf --rlhf_type orpo --model a/b --dataset c/d --deepspeed zero3\n", 3, False),
    ],
)
def test_the_name_of_a_missing_file_says_the_stage(text: str, stage: int, offloads: bool, tmp_path: Path) -> None:
    conversion = convert(text, "x.yaml", folders=[tmp_path])
    zero = conversion.values["launch"]["deepspeed_config"]["zero_optimization"]
    assert (zero["stage"], "offload_optimizer" in zero) == (stage, offloads)
    assert any("taken from its name" in remark for remark in conversion.remarks)


@pytest.mark.parametrize("text", [AXOLOTL, FACTORY, TRL])
def test_a_file_of_deepspeed_is_read_where_another_tool_names_it(text: str, tmp_path: Path) -> None:
    config = {
        "zero_optimization": {"stage": 2},
        "gradient_clipping": 0.3,
        "bf16": {"enabled": "auto"},
        "steps_per_print": 7,
    }
    (tmp_path / "ds.json").write_text(json.dumps(config))
    conversion = convert(f"{text}deepspeed: ds.json\n", "x.yaml", folders=[tmp_path], dataset="p.jsonl")
    assert conversion.values["launch"] == {
        "strategy": "deepspeed", "deepspeed_config": {"zero_optimization": {"stage": 2}, "steps_per_print": 7},
    }  # fmt: skip
    assert conversion.values["training"]["max_grad_norm"] == 0.3
    assert outcomes(conversion)["deepspeed.bf16.enabled"] == "empty"
    other = convert(f"{text}max_grad_norm: 1.0\ndeepspeed: ds.json\n", "x.yaml", folders=[tmp_path], dataset="p.jsonl")
    assert other.values["training"]["max_grad_norm"] == 1.0
    assert outcomes(other)["deepspeed.gradient_clipping"] == "ignored"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"one": 1}', "has none of the keys zero_optimization"),
        ("{", "cannot be read"),
        ("[1]", "cannot be read"),
        (None, "is not here"),
    ],
)
def test_another_file_than_one_of_deepspeed_is_left_out(content: str | None, reason: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "other.json").write_text(content)
    conversion = convert(f"{TRL}deepspeed: other.json\n", "x.yaml", folders=[tmp_path])
    (outcome,) = [each for each in conversion.outcomes if each.key == "deepspeed"]
    assert (outcome.outcome, "launch" in conversion.values) == ("left-out", False)
    assert reason in str(outcome.note)


def test_fsdp_of_axolotl_and_of_the_training_arguments(tmp_path: Path) -> None:
    text = (
        f"{AXOLOTL}fsdp_version: 2\nfsdp: [full_shard, auto_wrap, offload]\nfsdp_config:\n  offload_params: true\n"
        "  transformer_layer_cls_to_wrap: LlamaDecoderLayer\n  final_state_dict_type: FULL_STATE_DICT\n"
        "  state_dict_type: SHARDED_STATE_DICT\n  reshard_after_forward: true\n  mystery: 1\n"
    )
    conversion = convert(text, "x.yaml", dataset="p.jsonl")
    assert conversion.values["launch"] == {
        "strategy": "fsdp",
        "fsdp_config": {
            "offload_params": True, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"], "reshard_after_forward": True,
        },
    }  # fmt: skip
    found = outcomes(conversion)
    assert found["fsdp_config.state_dict_type"] == found["fsdp_config.final_state_dict_type"] == "left-out"
    assert found["fsdp_config.mystery"] == "unknown"
    conversion = convert(f"{TRL}fsdp: shard_grad_op\n", "x.yaml")
    assert conversion.values["launch"] == {"strategy": "fsdp", "fsdp_config": {"reshard_after_forward": False}}


def test_flags_of_the_launcher_before_the_script_are_its_settings(tmp_path: Path) -> None:
    (tmp_path / "fsdp.yaml").write_text("distributed_type: FSDP\nnum_processes: 4\nmixed_precision: bf16\n")
    command = "accelerate launch --config_file fsdp.yaml --main_process_port 29501 --num_machines $N train.py"
    conversion = convert(f"{command} --model_name_or_path a/b --dataset_name c/d\n", "x.sh", folders=[tmp_path])
    assert conversion.values["launch"] == {"strategy": "fsdp", "num_processes": 4, "main_process_port": 29501}
    found = outcomes(conversion)
    assert found["accelerate.num_machines"] == "left-out"
    assert found["accelerate.config_file.num_processes"] == "kept"
    command = "torchrun --standalone --nnodes 2 --nproc_per_node 4 --max_restarts 3 train.py"
    conversion = convert(f"{command} --model_name_or_path a/b --dataset_name c/d\n", "x.sh")
    assert conversion.values["launch"] == {"num_machines": 2, "num_processes": 8}
    assert outcomes(conversion)["torchrun.max_restarts"] == "left-out"
    command = "accelerate launch --multi_gpu train.py --model_name_or_path a/b --dataset_name c/d --deepspeed zero2"
    conversion = convert(f"{command}\n", "x.sh")
    assert conversion.values["launch"]["strategy"] == "deepspeed"
    assert outcomes(conversion)["accelerate.distributed_type"] == "ignored"


def test_the_option_adds_the_launcher_of_a_configuration(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    (tmp_path / "x.yaml").write_text(f"{TRL}bf16: true\n")
    (tmp_path / "zero.yaml").write_text(
        "distributed_type: DEEPSPEED\nmixed_precision: bf16\nnum_processes: 2\ndeepspeed_config: {zero_stage: 2}\n"
    )
    options = ("--accelerate-config", tmp_path / "zero.yaml")
    document = json.loads(orpo_here("convert", tmp_path / "x.yaml", *options, "--json").stdout)
    assert document["values"]["launch"] == {
        "num_processes": 2, "strategy": "deepspeed", "deepspeed_config": {"zero_optimization": {"stage": 2}},
    }  # fmt: skip
    keys = {entry["key"]: entry["outcome"] for entry in document["keys"]}
    assert keys["accelerate_config.mixed_precision"] == "ignored"
    result = orpo_here("convert", tmp_path / "x.yaml", "--accelerate-config", tmp_path / "none.yaml")
    assert (result.returncode, "there is no such file" in result.stderr) == (2, True)
