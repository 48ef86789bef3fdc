"""Edge cases of the rules about training arguments. The simple cases are the examples of the problem codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.recipe_problems import codes_and_paths, problems

from orpo_cli.recipe.schema.training_fields import LIBRARY_DEFAULTS


@pytest.mark.parametrize(
    ("training", "code", "name"),
    [
        ({"beta": 0.1, "nll_weight": 0}, None, None),
        ({"eval_strategy": "no", "eval_steps": 5}, "steps-unused", "eval_steps"),
        ({"save_strategy": "best", "eval_strategy": "epoch", "save_steps": 5}, "steps-unused", "save_steps"),
        ({"save_strategy": "no", "save_total_limit": 2}, "steps-unused", "save_total_limit"),
        ({"logging_strategy": "epoch", "logging_steps": 5}, "steps-unused", "logging_steps"),
        ({"logging_strategy": "epoch", "logging_steps": 10}, None, None),  # the default of the library is allowed
        ({"save_strategy": "epoch", "save_steps": 500}, None, None),
        ({"eval_steps": 0.2}, None, None),  # decides eval_strategy: steps
        ({"warmup_steps": 1.5}, "fractional-steps", "warmup_steps"),
        ({"warmup_steps": 2.0, "save_steps": 0.5, "logging_steps": 1.0}, None, None),
        ({"load_best_model_at_end": True}, None, None),  # both strategies are decided
        ({"load_best_model_at_end": True, "eval_steps": 10}, None, None),
        ({"load_best_model_at_end": True, "save_strategy": "best"}, None, None),
        ({"load_best_model_at_end": True, "save_strategy": "no"}, "best-model-strategies", "load_best_model_at_end"),
        ({"load_best_model_at_end": True, "save_steps": 10}, "best-model-strategies", "load_best_model_at_end"),
        ({"save_strategy": "best", "eval_strategy": "no"}, "best-model-strategies", "save_strategy"),
        (
            {"load_best_model_at_end": True, "eval_steps": 0.1, "save_steps": 0.3, "eval_strategy": "steps"}, None, None,
        ),  # 0.3 % 0.1 is not 0 in binary
        (
            {"load_best_model_at_end": True, "eval_steps": 0.1, "save_steps": 100, "eval_strategy": "steps"},
            "best-model-steps", "load_best_model_at_end",
        ),
        ({"load_best_model_at_end": True, "metric_for_best_model": "eval_nll_loss"}, None, None),
        (
            {"save_strategy": "best", "metric_for_best_model": "rewards/margins", "greater_is_better": False},
            "best-metric-direction", "greater_is_better",
        ),
        ({"greater_is_better": True}, "best-metric-unused", "greater_is_better"),
        ({"lr_scheduler_type": "greedy", "metric_for_best_model": "nll_loss"}, None, None),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 2}}, None, None),
        ({"lr_scheduler_type": "greedy", "warmup_steps": 0.1}, "warmup-unused", "warmup_steps"),
        ({"lr_scheduler_type": "constant", "warmup_steps": 0}, None, None),
        (
            {"lr_scheduler_type": "greedy", "eval_strategy": "no"}, "schedule-without-evaluation", "lr_scheduler_type",
        ),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "schedule-arguments", "lr_scheduler_type"),
        ({"lr_scheduler_kwargs": {"num_cycles": 1}}, None, None),  # cosine is the default here
        ({"lr_scheduler_type": "linear", "lr_scheduler_kwargs": {"power": 2}}, "schedule-arguments", "lr_scheduler_kwargs"),
        ({"max_steps": 10, "warmup_steps": 10}, "warmup-too-long", "warmup_steps"),
        ({"max_steps": 10, "warmup_steps": 9}, None, None),
        ({"max_steps": 10, "num_train_epochs": 3}, None, None),  # a short run of a complete recipe
        ({"max_steps": -1}, None, None),
        ({"optim": "paged_lion_8bit", "adam_epsilon": 1e-6}, "adam-settings-unused", "adam_epsilon"),
        ({"optim": "paged_lion_8bit", "adam_beta1": 0.95}, None, None),
        ({"optim": "sgd", "adam_beta1": 0.9}, None, None),  # the default of the library is allowed
        ({"adam_beta2": 0.95}, None, None),
        ({"optim_args": "rank=4"}, "optimizer-arguments", "optim_args"),
        ({"optim": "sgd", "optim_args": "momentum"}, "optimizer-arguments", "optim_args"),
        ({"optim_target_modules": ["q_proj"]}, "optimizer-modules", "optim_target_modules"),
        ({"beta": 0}, "unusual-beta", "beta"),
        ({"beta": 0.05}, None, None),
        ({"beta": 1.0}, None, None),
        ({"dataloader_persistent_workers": True}, "worker-settings-unused", "dataloader_persistent_workers"),
        ({"dataloader_num_workers": 1, "dataloader_persistent_workers": True}, None, None),
        ({"gradient_checkpointing_kwargs": {"use_reentrant": True}}, None, None),  # on or off is decided
        (
            {"activation_checkpointing": False, "activation_checkpointing_kwargs": {"use_reentrant": True}},
            "checkpointing-settings-unused", "activation_checkpointing_kwargs",
        ),
        ({"activation_checkpointing": True, "gradient_checkpointing": True}, None, None),
        ({"report_to": "all"}, None, None),
        ({"report_to": ["none", "wandb"]}, "unknown-tracker", "report_to"),
        ({"report_to": "wandb", "trackio_space_id": "me/x"}, "tracker-settings-unused", "trackio_space_id"),
        ({"report_to": "wandb", "run_name": "x", "project": "y"}, None, None),
        ({"accelerator_config": {"dispatch_batches": True}}, "accelerator-config", "accelerator_config"),
        ({"accelerator_config": "accelerate.json"}, None, None),
        (
            {"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 2}}},
            "accelerator-config", "accelerator_config",
        ),
    ],
)  # fmt: skip
def test_rules_about_training_arguments(
    tmp_path: Path, training: dict[str, Any], code: str | None, name: str | None
) -> None:
    assert codes_and_paths(tmp_path, held_out=True, training=training) == (
        {(code, f"training.{name}")} if code else set()
    )


def test_a_loss_without_terms_is_an_error(tmp_path: Path) -> None:
    found = codes_and_paths(tmp_path, training={"beta": 0, "nll_weight": 0})
    assert found == {("unusual-beta", "training.beta"), ("invalid-value", "training.nll_weight")}


def test_settings_of_a_disabled_feature_are_only_warnings(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, held_out=True, training={"eval_strategy": "no", "eval_steps": 5})
    assert problem.severity == "warning"
    (problem,) = problems(tmp_path, held_out=True, training={"eval_strategy": "epoch", "eval_steps": 5})
    assert problem.severity == "error"


def test_library_defaults_cause_no_problem(tmp_path: Path) -> None:
    """A printed configuration contains every default, so defaults must not be reported."""
    defaults = {name: value for name, value in LIBRARY_DEFAULTS.items() if value is not None}
    assert {code for code, _ in codes_and_paths(tmp_path, training=defaults)} <= {"argument-without-effect"}
