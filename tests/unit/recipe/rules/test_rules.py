"""Edge cases of the cross-field rules. The simple cases are the examples of the problem codes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

from orpo_cli.errors import Problem, RecipeError
from orpo_cli.recipe.eval_save_defaults import SCHEDULES_WITHOUT_WARMUP
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.rules import evaluation_and_saving, model, schedule, tracking_and_hub, training_step
from orpo_cli.recipe.rules.data import ACCELERATOR_CONFIG_KEYS
from orpo_cli.recipe.rules.tracking_and_hub import REPO_ID, invalid_repo_id
from orpo_cli.recipe.schema import Recipe
from orpo_cli.recipe.schema.training_fields import LIBRARY_DEFAULTS

MODEL = {"model_name_or_path": "a/b"}
TRAIN = {"path": "x.jsonl"}
HELD_OUT = {"train": TRAIN, "eval": {"test_size": 0.1}}


def problems(folder: Path, **sections: Any) -> list[Problem]:
    """The problems of a recipe with these sections; `held_out` adds held-out pairs."""
    dataset = HELD_OUT if sections.pop("held_out", False) else {"train": TRAIN}
    file = folder / "r.yaml"
    file.write_text(yaml.safe_dump({"model": MODEL, "dataset": dataset, **sections}))
    try:
        return list(load_recipe(str(file)).warnings)
    except RecipeError as error:
        return list(error.problems)


def codes_and_paths(folder: Path, **sections: Any) -> set[tuple[str, str]]:
    return {(problem.code, problem.path) for problem in problems(folder, **sections)}


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


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ({"train": TRAIN, "eval": {"test_size": 1}}, set()),
        ({"train": TRAIN, "eval": {"test_size": 1.0}}, {("test-size", "dataset.eval.test_size")}),
        ({"train": [TRAIN, TRAIN]}, {("duplicate-source", "dataset.train[1].path")}),
        ({"train": [{**TRAIN, "split": "train[:9]"}, TRAIN]}, {("duplicate-source", "dataset.train[1].path")}),
        ({"train": [{**TRAIN, "split": "train[:9]"}, {**TRAIN, "split": "train[9:]"}]}, set()),
        ({"train": [{**TRAIN, "name": "a"}, {**TRAIN, "name": "b"}]}, set()),
        ({"train": [{**TRAIN, "columns": {"rejected": "a"}}, {**TRAIN, "columns": {"rejected": "b"}}]}, set()),
        ({"train": TRAIN, "eval": {**TRAIN, "split": "train[:5%]"}, "rules": {"leaked": True}}, set()),
        ({"train": {"path": "a/b"}, "eval": {"path": "a/b", "split": "test"}}, set()),
        ({"train": TRAIN, "eval": {**TRAIN, "split": "train[:5%]"}}, {("evaluates-on-train", "dataset.eval.path")}),
        (
            {"train": [{**TRAIN, "max_samples": 5}, {"path": "y", "max_samples": 5}], "eval": {"test_size": 10}},
            {("test-size-takes-all", "dataset.eval.test_size")},
        ),
        ({"train": [{**TRAIN, "max_samples": 5}, {"path": "y"}], "eval": {"test_size": 10}}, set()),
        ({"train": {**TRAIN, "weight_by": "score_margin", "columns": {"chosen": "good"}}}, set()),
        (
            {"train": TRAIN, "eval": {"path": "y", "weight_by": "score_margin", "columns": {"weight": "w"}}},
            {("two-pair-weights", "dataset.eval.weight_by")},
        ),
    ],
)
def test_rules_about_overlapping_sources(
    tmp_path: Path, dataset: dict[str, Any], expected: set[tuple[str, str]]
) -> None:
    found = {(each.code, each.path.replace("eval[0]", "eval")) for each in problems(tmp_path, dataset=dataset)}
    assert found == expected


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"model": {**MODEL, "dtype": "float16"}, "lora": {}}, set()),
        ({"model": {**MODEL, "dtype": "bfloat16"}, "training": {"bf16": True}}, set()),
        ({"model": {**MODEL, "dtype": "bfloat16"}, "lora": {}, "training": {"fp16": True}}, set()),
        ({"lora": {"target_modules": "all-linear", "exclude_modules": "(lm_head"}}, {("target-pattern", "lora.exclude_modules")}),
        ({"lora": {"lora_dropout": 0.1}}, set()),
        ({"model": {**MODEL, "chat_template": "tokeniser"}}, {("unknown-chat-template", "model.chat_template")}),
        ({"model": {**MODEL, "chat_template": "phi3"}}, set()),
        ({"model": {**MODEL, "chat_template": "my.jinja"}}, set()),
        ({"model": {**MODEL, "chat_template": "{{ messages }}"}}, set()),
        ({"model": {"model_name_or_path": "x.gguf", "model_revision": "v1"}}, {("revision-unused", "model.model_revision")}),
        ({"model": {**MODEL, "model_revision": "v1"}}, set()),
        ({"lora": {"lora_dropout": 0.0}, "training": {"disable_dropout": True}}, set()),
        ({"training": {"eval_on_start": True}}, {("no-eval-data", "training.eval_on_start")}),
        ({"training": {"eval_strategy": "no"}}, set()),
        ({"training": {"save_strategy": "best"}}, {("best-model-strategies", "training.save_strategy")}),
        ({"hub": {"repo_id": "me/model.git"}}, {("hub-repo-id", "hub.repo_id")}),
        ({"hub": {"repo_id": "me/Model_1.0-beta"}}, set()),
    ],
)  # fmt: skip
def test_rules_across_sections(tmp_path: Path, sections: dict[str, Any], expected: set[tuple[str, str]]) -> None:
    assert codes_and_paths(tmp_path, **sections) == expected


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


def test_library_defaults_cause_no_problem(tmp_path: Path) -> None:
    """A printed configuration contains every default, so defaults must not be reported."""
    defaults = {name: value for name, value in LIBRARY_DEFAULTS.items() if value is not None}
    assert {code for code, _ in codes_and_paths(tmp_path, training=defaults)} <= {"argument-without-effect"}
