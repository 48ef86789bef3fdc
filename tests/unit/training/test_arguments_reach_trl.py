"""Training arguments of a recipe: each one reaches TRL's trainer with its value."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from support.tiny import tiny_llama, tiny_tokenizer, write_recipe
from transformers.utils import logging as transformers_logging

from orpo_cli.data.prepare import prepare
from orpo_cli.machine import probe
from orpo_cli.planning.resolve import resolve
from orpo_cli.recipe.legacy.unsupported_training_args import UNSUPPORTED_TRAINING_ARGS
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.schema.training_fields import LIBRARY_DEFAULTS, TrainingFields
from orpo_cli.training.make_trainer import TrainingInputs, make_trainer

EVALUATED = {"eval_strategy": "steps", "eval_steps": 2}
BEST = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
WORKERS = {"dataloader_num_workers": 2}

# A non-default value of each argument, and the other arguments that it needs.
VALUES: dict[str, tuple[Any, dict[str, Any]]] = {
    "beta": (0.3, {}),
    "max_length": (64, {}),
    "disable_dropout": (False, {}),
    "per_device_train_batch_size": (3, {}),
    "gradient_accumulation_steps": (5, {}),
    "num_train_epochs": (1.5, {"max_steps": -1}),
    "max_steps": (7, {}),
    "learning_rate": (3e-4, {}),
    "lr_scheduler_type": ("inverse_sqrt", {}),
    "lr_scheduler_kwargs": ({"num_cycles": 2}, {"lr_scheduler_type": "cosine_with_restarts"}),
    "warmup_steps": (0.25, {}),
    "optim": ("adafactor", {}),
    "optim_args": ("alpha=4", {"optim": "ademamix"}),
    "optim_target_modules": (["q_proj"], {"optim": "galore_adamw"}),
    "weight_decay": (0.01, {}),
    "adam_beta1": (0.8, {}),
    "adam_beta2": (0.95, {}),
    "adam_epsilon": (1e-6, {}),
    "max_grad_norm": (0.3, {}),
    "neftune_noise_alpha": (5.0, {}),
    "bf16": (True, {}),
    "fp16": (True, {}),
    "tf32": (True, {}),
    "activation_checkpointing": (True, {}),
    "activation_checkpointing_kwargs": ({"use_reentrant": False}, {"activation_checkpointing": True}),
    "gradient_checkpointing": (True, {}),
    "gradient_checkpointing_kwargs": ({"use_reentrant": False}, {"gradient_checkpointing": True}),
    "torch_compile": (True, {}),
    "torch_compile_backend": ("eager", {"torch_compile": True}),
    "torch_compile_mode": ("reduce-overhead", {"torch_compile": True}),
    "torch_empty_cache_steps": (4, {}),
    "eval_strategy": ("epoch", {}),
    "eval_steps": (3, EVALUATED),
    "eval_delay": (1, EVALUATED),
    "eval_on_start": (True, EVALUATED),
    "per_device_eval_batch_size": (3, EVALUATED),
    "eval_accumulation_steps": (2, EVALUATED),
    "save_strategy": ("epoch", {}),
    "save_steps": (3, {"save_strategy": "steps"}),
    "save_total_limit": (2, {"save_strategy": "epoch"}),
    "save_only_model": (True, {"save_strategy": "epoch"}),
    "save_on_each_node": (True, {"save_strategy": "epoch"}),
    "load_best_model_at_end": (True, BEST),
    "metric_for_best_model": ("eval_rewards/margins", BEST),
    "greater_is_better": (True, {**BEST, "metric_for_best_model": "eval_rewards/margins"}),
    "ignore_data_skip": (True, {}),
    "restore_callback_states_from_checkpoint": (True, {}),
    "logging_strategy": ("epoch", {}),
    "logging_steps": (3, {}),
    "logging_first_step": (True, {"logging_steps": 3}),
    "log_level": ("error", {}),
    "log_level_replica": ("error", {}),
    "log_on_each_node": (False, {}),
    "report_to": (["tensorboard"], {}),
    "run_name": ("first", {}),
    "project": ("mine", {}),
    "trackio_space_id": ("me/space", {}),
    "trackio_bucket_id": ("me/bucket", {}),
    "trackio_static_space_id": (False, {}),
    "train_sampling_strategy": ("group_by_length", {}),
    "dataloader_num_workers": (2, {}),
    "dataloader_prefetch_factor": (3, WORKERS),
    "dataloader_persistent_workers": (True, WORKERS),
    "dataloader_multiprocessing_context": ("spawn", WORKERS),
    "dataloader_in_order": (False, WORKERS),
    "dataloader_pin_memory": (False, {}),
    "dataloader_drop_last": (True, {}),
    "accelerator_config": ({"even_batches": False}, {}),
    "seed": (3, {}),
    "data_seed": (4, {}),
    "full_determinism": (True, {}),
    "use_cpu": (True, {}),
    "average_tokens_across_devices": (False, {}),
    "ddp_timeout": (60, {}),
    "ddp_bucket_cap_mb": (10, {}),
    "ddp_find_unused_parameters": (True, {}),
    "ddp_broadcast_buffers": (False, {}),
    "ddp_static_graph": (True, {}),
    "debug": (["underflow_overflow"], {}),
    "skip_memory_metrics": (False, {}),
}
SEVERAL_PROCESSES = {"ddp_backend"}  # planned as none in one process, where the library looks for a group of them
NEEDS = {
    "fp16": (not torch.cuda.is_available(), "float16 is computed on a GPU"),
    "tf32": (not torch.cuda.is_available(), "TF32 is a type of NVIDIA GPUs"),
}


def test_every_argument_of_a_recipe_is_tested_with_a_non_default_value() -> None:
    assert set(VALUES) == set(TrainingFields.model_fields) - set(UNSUPPORTED_TRAINING_ARGS) - SEVERAL_PROCESSES
    assert [
        name
        for name, (value, _) in VALUES.items()
        if value == LIBRARY_DEFAULTS[name] and name != "gradient_checkpointing"
    ] == []


@pytest.fixture(autouse=True)
def _settings_of_the_process() -> Iterator[None]:
    """Some arguments change the process."""
    verbosity = transformers_logging.get_verbosity()
    yield
    transformers_logging.set_verbosity(verbosity)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset, Dataset]:
    folder = tmp_path_factory.mktemp("arguments")
    plan = resolve(load_recipe(str(write_recipe(folder))), probe())
    prepared = prepare(plan.dataset, tiny_tokenizer(), max_length=192, max_prompt_length=96, note=print)
    assert prepared.eval is not None
    return folder, prepared.train, prepared.eval


@pytest.mark.parametrize("name", VALUES)
def test_the_value_of_the_recipe_reaches_the_trainer(name: str, data: tuple[Path, Dataset, Dataset]) -> None:
    missing, reason = NEEDS.get(name, (False, ""))
    if missing:
        pytest.skip(reason)
    folder, train, held_out = data
    value, needed = VALUES[name]
    recipe = write_recipe(folder, lora=False, training={**needed, name: value}, dataset={"max_prompt_length": 32})
    loaded = load_recipe(str(recipe))
    assert loaded.recipe.training.model_dump()[name] == value
    plan = resolve(loaded, probe())
    assert plan.training[name] == value
    assert {why.origin for path, why in plan.why.items() if f"{path}.".startswith(f"training.{name}.")} == {"recipe"}
    trainer = make_trainer(
        plan, folder / "checkpoints", TrainingInputs(tiny_llama(), tiny_tokenizer(), train, held_out), []
    )
    assert _plain(getattr(trainer.args, name), value) == value


def _plain(value: Any, like: Any) -> Any:
    """A value as a recipe writes it."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, list):
        return [_plain(each, like) for each in value]
    return (
        {key: getattr(value, key) for key in like} if isinstance(like, dict) and not isinstance(value, dict) else value
    )
