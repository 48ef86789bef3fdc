"""Conversion of random configurations: random values for each key of a tool, and damaged files."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from orpo_cli.errors import UsageError
from orpo_cli.recipe.convert import autotrain, mlx_lm, ms_swift, trl
from orpo_cli.recipe.convert.axolotl import axolotl_config
from orpo_cli.recipe.convert.axolotl import unsupported_keys as axolotl_unsupported_keys
from orpo_cli.recipe.convert.convert import convert
from orpo_cli.recipe.convert.launch import accelerate, deepspeed
from orpo_cli.recipe.convert.llama_factory import llama_factory_config
from orpo_cli.recipe.convert.llama_factory import unsupported_keys as llama_factory_unsupported_keys
from orpo_cli.recipe.legacy.migration import ARGUMENT_POLICIES
from orpo_cli.recipe.legacy.unsupported_launch_args import UNSUPPORTED_LAUNCH_ARGS
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.schema.training_fields import TrainingFields

EXAMPLES = sorted(path for path in (Path(__file__).parent / "convert").iterdir() if "values" not in path.name)
TOKEN = "hf_" + "a" * 24


def keys_of(reasons: Mapping[str, str]) -> list[str]:
    return [key for keys in reasons.values() for key in keys.split()]


TRAINING = [*TrainingFields.model_fields, *ARGUMENT_POLICIES]
TOOLS: dict[str, tuple[dict[str, str], list[str], str]] = {  # required keys, keys in its tables, keys in its code
    "axolotl": (
        {"base_model": "a/b", "rl": "orpo"},
        [*axolotl_config.RECIPE_PATHS, *keys_of(axolotl_unsupported_keys.IGNORED_KEYS), *keys_of(axolotl_unsupported_keys.UNSUPPORTED_KEYS), *axolotl_config.ATTENTION],
        "adapter load_in_4bit load_in_8bit lora_dropout lora_target_modules lora_target_linear peft bnb_config_kwargs "
        "attn_implementation tokenizer_config chat_template chat_template_jinja special_tokens datasets test_datasets "
        "val_set_size sequence_len excess_length_strategy orpo_alpha rl_beta trl batch_size evals_per_epoch "
        "saves_per_epoch wandb_project use_wandb wandb_name use_mlflow bfloat16 group_by_length model_config",
    ),
    "llama-factory": (
        {"model_name_or_path": "a/b", "stage": "orpo", "dataset": "orca_pairs"},
        [*llama_factory_config.RECIPE_PATHS, *llama_factory_config.LORA_PATHS, *keys_of(llama_factory_unsupported_keys.IGNORED_KEYS), *keys_of(llama_factory_unsupported_keys.UNSUPPORTED_KEYS)],
        "flash_attn template pure_bf16 quantization_bit quantization_method quantization_type double_quantization "
        "finetuning_type lora_target lora_dropout pissa_init pissa_iter eval_dataset dataset_dir max_samples val_size "
        "mix_strategy interleave_probs pref_beta pref_ftx use_reentrant_gc disable_gradient_checkpointing",
    ),
    "trl": (
        {"model_name_or_path": "a/b", "dataset_name": "c/d"},
        [*trl.MODEL_PATHS, *trl.QUANTIZATION_PATHS, *trl.LORA_PATHS, *keys_of(trl.UNSUPPORTED_KEYS)],
        "use_peft lora_dropout chat_template dataset_config dataset_train_split dataset_test_split dataset_splits "
        "dataset_configs dataset_mixer dataset_mixture gradient_checkpointing_use_reentrant",
    ),
    "ms-swift": (
        {"model": "a/b", "rlhf_type": "orpo", "dataset": "c/d"},
        [*ms_swift.RECIPE_PATHS, *ms_swift.LORA_PATHS, *keys_of(ms_swift.IGNORED_KEYS), *keys_of(ms_swift.UNSUPPORTED_KEYS)],
        "attn_impl template quant_bits quant_method bnb_4bit_quant_type tuner_type target_modules init_weights "
        "lora_dropout val_dataset columns split_dataset_ratio max_length truncation_strategy use_flash_attn template_type "
        "quantization_bit lora_target_modules lora_dropout_p dataset_test_ratio",
    ),
    "autotrain": (
        {"base_model": "a/b", "project_name": "x", "task": "llm-orpo", "data_path": "c/d"},
        [*autotrain.RECIPE_PATHS, *autotrain.NAMES, *autotrain.LORA_KEYS, *autotrain.COLUMNS, *keys_of(autotrain.IGNORED_KEYS), *keys_of(autotrain.UNSUPPORTED_KEYS)],
        "peft quantization use_int4 train_split valid_split chat_template block_size logging_steps mixed_precision "
        "use_flash_attention_2 log dpo_beta evaluation_strategy save_strategy repo_id username data params hub",
    ),
    "mlx-lm": (
        {"model": "a/b", "train_mode": "orpo", "data": "c/d"},
        [*mlx_lm.RECIPE_PATHS, *mlx_lm.FEATURES, *keys_of(mlx_lm.IGNORED_KEYS), *keys_of(mlx_lm.UNSUPPORTED_KEYS)],
        "train train_type fine_tune_type lora_parameters num_layers load_in_4bits load_in_8bits hf_dataset iters epochs "
        "steps_per_report save_every steps_per_eval wandb optimizer optimizer_config lr_schedule learning_rate "
        "preference_score_feature",
    ),
    "accelerate": (
        {"distributed_type": "FSDP"},
        [*accelerate.FIELDS, *accelerate.NOOP_VALUES, *accelerate.OTHER_REASONS, *UNSUPPORTED_LAUNCH_ARGS],
        "fsdp_config deepspeed_config",
    ),
    "deepspeed": (
        {"zero_optimization": {"stage": 2}},
        [*deepspeed.BATCH_KEYS, *deepspeed.ELSEWHERE, *deepspeed.KEPT],
        "optimizer scheduler fp16 bf16 train_batch_size",
    ),
}  # fmt: skip
LAUNCHERS = ("accelerate", "deepspeed")  # have no training arguments
VALUES: tuple[Any, ...] = (
    True, False, None, 0, 1, 4, 8, 16, 0.5, 1e-5, -1, float("nan"), "steps", "epoch", "no", "auto", "lora", "qlora", "full",
    "x", "5e-6", "yes", "bfloat16", "wandb", "adamw_torch", "cosine", "chatml", TOKEN, "${X}", "two\nlines", "ä: '"#",
    "x\u2028y", "a\x85b", "z # y", "2024-01-01", ["a", "b"], [1, 2], [], {}, {"a": 1}, {"use_reentrant": True},
    [{"path": "p/q", "type": "chat_template.argilla"}],
)  # fmt: skip


@pytest.mark.parametrize("tool", TOOLS)
def test_with_random_values_no_key_is_lost_and_the_recipe_is_valid(tool: str, tmp_path: Path) -> None:
    rng = random.Random(tool)
    required, keys, others = TOOLS[tool]
    file = tmp_path / "x.yaml"
    for _ in range(120):
        chosen = rng.sample(
            [key for key in [*keys, *others.split(), *([] if tool in LAUNCHERS else TRAINING)] if key not in required],
            rng.randint(1, 25),
        )
        values = {**required, **{key: rng.choice(VALUES) for key in chosen}}
        conversion = convert(yaml.safe_dump(values, allow_unicode=True), "x.yml", tool=tool)
        file.write_text(conversion.text, encoding="utf-8")
        loaded = load_recipe(str(file))
        outcomes = {outcome.key: outcome.outcome for outcome in conversion.outcomes}
        assert outcomes.keys() >= values.keys()
        assert [key for key in values if outcomes[key] == "unknown"] == []
        assert not {"renamed-argument", "argument-without-effect", "moved-argument"} & {
            warning.code for warning in loaded.warnings
        }
        assert TOKEN not in conversion.text + repr(conversion.outcomes)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_a_damaged_file_is_converted_or_rejected_with_a_usage_error(path: Path, tmp_path: Path) -> None:
    rng = random.Random(path.name)
    text = path.read_text(encoding="utf-8")
    converted = 0
    for _ in range(60):
        lines = text.splitlines()
        for _ in range(rng.randint(1, 4)):
            index = rng.randrange(len(lines))
            column = rng.randint(0, len(lines[index]))
            lines[index] = rng.choice(
                (
                    "", lines[index][:column], lines[index] * 2, lines[rng.randrange(len(lines))],
                    lines[index][:column] + rng.choice("'\"([{<>:=,#$\\|&*!\t-\x00\x7f\u2028") + lines[index][column:],
                )
            )  # fmt: skip
        with contextlib.suppress(UsageError):  # RecipeError is one: exit code 2
            conversion = convert("\n".join(lines), "x")
            (tmp_path / "x.yaml").write_text(conversion.text, encoding="utf-8")
            converted += 1
        if (tmp_path / "x.yaml").exists():
            load_recipe(str(tmp_path / "x.yaml"))
    assert converted > 5
