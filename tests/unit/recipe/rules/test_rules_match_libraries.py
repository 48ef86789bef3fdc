"""Tables of the rules are equal to what the installed libraries accept."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from support.recipe_problems import MODEL, TRAIN

from orpo_cli.recipe.eval_save_defaults import SCHEDULES_WITHOUT_WARMUP
from orpo_cli.recipe.rules import evaluation_and_saving, model, schedule, tracking_and_hub, training_step
from orpo_cli.recipe.rules.data import ACCELERATOR_CONFIG_KEYS
from orpo_cli.recipe.rules.tracking_and_hub import REPO_ID, invalid_repo_id
from orpo_cli.recipe.schema import Recipe


def test_schedule_arguments_match_the_library() -> None:
    from torch.optim.lr_scheduler import ReduceLROnPlateau
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, GreedyLR
    from transformers.trainer_utils import SchedulerType

    functions = {kind.value: function for kind, function in TYPE_TO_SCHEDULER_FUNCTION.items()}
    functions |= {"reduce_lr_on_plateau": ReduceLROnPlateau, "greedy": GreedyLR}
    assert functions.keys() == schedule.SCHEDULE_ARGUMENTS.keys()
    given = {"self", "optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
    for name, function in functions.items():
        known = set(inspect.signature(function).parameters) - given
        assert set(schedule.SCHEDULE_ARGUMENTS[name]) == known, name
    assert set(SCHEDULES_WITHOUT_WARMUP) <= {kind.value for kind in SchedulerType}


def test_the_library_also_refuses_schedules_without_required_arguments() -> None:
    import torch
    from transformers import get_scheduler

    for name, needed in schedule.REQUIRED_ARGUMENTS.items():
        for arguments in ({}, dict.fromkeys(needed, 1) if len(needed) > 1 else {}):
            group = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
            with pytest.raises((ValueError, TypeError)):
                get_scheduler(name, group, 1, 10, arguments)


def test_chat_templates_match_the_built_in_ones() -> None:
    from orpo_cli.model.builtin_chat_templates import BUILTIN_CHAT_TEMPLATES

    assert tuple(BUILTIN_CHAT_TEMPLATES) == model.CHAT_TEMPLATES


def test_trackers_match_the_library() -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(tracking_and_hub.TRACKERS) == INTEGRATION_TO_CALLBACK.keys()


def test_accelerator_config_keys_match_the_library() -> None:
    import dataclasses

    from transformers.trainer_pt_utils import AcceleratorConfig

    assert set(ACCELERATOR_CONFIG_KEYS) == {field.name for field in dataclasses.fields(AcceleratorConfig)}


@pytest.mark.parametrize(
    "name",
    ["adamw_torch", "adafactor", "sgd", "adagrad", "rmsprop", "adamw_bnb_8bit", "paged_lion_8bit", "ademamix", "rmsprop_bnb"],
)  # fmt: skip
def test_the_library_passes_adam_settings_and_optim_args_as_the_rules_expect(name: str) -> None:
    from transformers import Trainer, TrainingArguments

    def settings(**options: Any) -> dict[str, Any]:
        arguments = TrainingArguments(optim=name, use_cpu=True, **options)
        return dict(Trainer.get_optimizer_cls_and_kwargs(arguments)[1])

    plain, arguments = settings(), {"ademamix": "alpha=4.0"}.get(name, "momentum=0.5,lr_decay=0.1")
    assert (settings(adam_beta1=0.8) != plain) == (name not in training_step.NO_BETAS)
    assert (settings(adam_epsilon=1e-3) != plain) == (name not in (*training_step.NO_BETAS, *training_step.NO_EPSILON))
    assert (settings(optim_args=arguments) != plain) == (name not in training_step.NO_ARGUMENTS)


def test_the_optimizers_in_the_rules_exist() -> None:
    from transformers.training_args import OptimizerNames

    named = {*training_step.NO_BETAS, *training_step.NO_EPSILON, *training_step.NO_ARGUMENTS}
    assert named <= {each.value for each in OptimizerNames}


def test_the_metrics_match_those_of_trl() -> None:
    from trl.experimental.orpo import ORPOTrainer

    source = inspect.getsource(ORPOTrainer.get_batch_loss_metrics)
    for metric in evaluation_and_saving.METRICS[1:12]:
        assert f"{{prefix}}{metric}" in source, metric


@pytest.mark.parametrize(
    "name",
    ["a/b", "A-b/c.d", "a/b--c", "a/b..c", "-a/b", "a/b-", "a/b.", "a/b.git", "a/b/c", "a b/c", "a/" + "b" * 94, "a/" + "b" * 95],
)  # fmt: skip
def test_the_hub_accepts_the_same_repository_ids(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    recipe = Recipe.model_validate({"model": MODEL, "dataset": {"train": TRAIN}, "hub": {"repo_id": name}})
    try:
        validate_repo_id(name)
        good = True
    except HFValidationError:
        good = False
    assert (not list(invalid_repo_id(recipe))) == good, REPO_ID.pattern
