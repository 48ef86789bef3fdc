"""Former, moved and unsupported training arguments: converted, ignored with a warning, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orpo_cli.errors import Problem, RecipeError
from orpo_cli.recipe.legacy.migration import migrate_training_args
from orpo_cli.recipe.load import LoadedRecipe, load_recipe


def load(folder: Path, training: dict[str, Any], *overrides: str, **sections: Any) -> LoadedRecipe:
    recipe = {"model": {"model_name_or_path": "a/b"}, "dataset": {"train": {"path": "x"}}, **sections}
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in recipe.items()] + ["training:"]
    lines += [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in training.items()]
    (folder / "r.yaml").write_text("\n".join(lines) + "\n")
    return load_recipe(str(folder / "r.yaml"), overrides)


def refused(folder: Path, training: dict[str, Any], *overrides: str, **sections: Any) -> dict[str, Problem]:
    with pytest.raises(RecipeError) as caught:
        load(folder, training, *overrides, **sections)
    return {problem.path: problem for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("written", "now"),
    [
        ({"evaluation_strategy": "no"}, {"eval_strategy": "no"}),
        ({"warmup_ratio": 0.1}, {"warmup_steps": 0.1}),
        ({"warmup_ratio": 0.1, "warmup_steps": 0}, {"warmup_steps": 0.1}),
        ({"warmup_ratio": 0.0, "warmup_steps": 10}, {"warmup_steps": 10}),
        ({"no_cuda": True}, {"use_cpu": True}),
        ({"no_cuda": False, "use_cpu": True}, {"use_cpu": True}),
        ({"group_by_length": True}, {"train_sampling_strategy": "group_by_length"}),
        ({"adafactor": True, "optim": "adafactor"}, {"optim": "adafactor"}),
        ({"optim": "adamw_hf"}, {"optim": "adamw_torch"}),
        ({"torchdynamo": "inductor"}, {"torch_compile_backend": "inductor"}),
        (
            {"split_batches": True, "accelerator_config": {"split_batches": False, "even_batches": False}},
            {"accelerator_config": {"split_batches": True, "even_batches": False}},
        ),
    ],
)
def test_a_former_argument_is_read_as_its_current_setting(written: dict[str, Any], now: dict[str, Any]) -> None:
    translation = migrate_training_args(written)
    assert (translation.training, translation.other_sections) == (now, {})
    assert {problem.severity for problem in translation.problems} == {"warning"}
    assert {problem.path for problem in translation.problems} <= {f"training.{name}" for name in written}


def test_arguments_of_another_section_are_moved_to_it(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        {
            "max_prompt_length": 128, "truncation_mode": "keep_start", "output_dir": "here", "trust_remote_code": True,
            "push_to_hub_model_id": "it", "push_to_hub_organization": "we", "hub_private_repo": True,
        },
    )  # fmt: skip
    recipe = loaded.recipe
    assert (recipe.dataset.max_prompt_length, recipe.dataset.truncation_mode) == (128, "keep_start")
    assert (recipe.output_dir, recipe.model.trust_remote_code) == ("here", True)
    assert (recipe.hub.repo_id, recipe.hub.private) == ("we/it", True)
    assert len(loaded.warnings) == 8  # one for each argument, and trust-remote-code
    assert [loaded.origin_kind(path) for path in ("dataset.max_prompt_length", "output_dir")] == ["recipe", "recipe"]


def test_a_renamed_value_keeps_its_line(tmp_path: Path) -> None:
    found = refused(tmp_path, {"seed": 1, "evaluation_strategy": "sometimes", "max_prompt_length": 0})
    assert (found["training.eval_strategy"].line, found["dataset.max_prompt_length"].line) == (5, 6)


def test_an_override_with_a_former_name_is_an_override(tmp_path: Path) -> None:
    loaded = load(tmp_path, {}, "training.warmup_ratio=0.2")
    assert loaded.recipe.training.warmup_steps == 0.2
    assert loaded.origin_kind("training.warmup_steps") == "override"
    assert refused(tmp_path, {}, "training.evaluation_strategy=x")["training.eval_strategy"].file == "--set"


def test_different_values_for_the_former_and_the_current_name_are_an_error(tmp_path: Path) -> None:
    both = {"evaluation_strategy": "epoch", "eval_strategy": "no", "warmup_ratio": 0.1, "warmup_steps": 5}
    found = refused(tmp_path, both)
    assert {path: problem.code for path, problem in found.items()} == {
        "training.evaluation_strategy": "conflicting-arguments",
        "training.warmup_ratio": "conflicting-arguments",
    }
    dataset = {"train": {"path": "x"}, "max_prompt_length": 64}
    found = refused(tmp_path, {"max_prompt_length": 128}, dataset=dataset)
    assert found["training.max_prompt_length"].code == "conflicting-arguments"
    assert load(tmp_path, {"max_prompt_length": 64}, dataset=dataset).recipe.dataset.max_prompt_length == 64


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("past_index", 2, "Remove it."),
        ("overwrite_output_dir", True, "another `output_dir`"),
        ("save_safetensors", False, "Remove it."),
        ("label_pad_token_id", 0, "Remove it."),
        ("half_precision_backend", "apex", "`bf16` and `fp16`"),
        ("push_to_hub_organization", "we", "`hub.repo_id`"),
        ("label_smoothing_factor", 0.1, "Remove it."),
        ("padding_value", 0, "Remove it."),
        ("do_predict", True, "orpo eval"),
    ],
)
def test_removed_and_unsupported_arguments_are_refused_with_a_remedy(
    tmp_path: Path, name: str, value: Any, remedy: str
) -> None:
    problem = refused(tmp_path, {name: value})[f"training.{name}"]
    assert problem.code in ("removed-argument", "unsupported-training-argument")
    assert problem.line == 4
    assert remedy in str(problem.remedy)


def test_values_without_effect_are_ignored_with_a_warning(tmp_path: Path) -> None:
    noop = {"_n_gpu": 1, "past_index": -1, "use_ipex": False, "mp_parameters": "", "save_safetensors": True, "fsdp": [],
            "do_predict": False, "hub_token": "<HUB_TOKEN>", "hub_private_repo": False}  # fmt: skip
    loaded = load(tmp_path, noop)
    assert {warning.path for warning in loaded.warnings} == {f"training.{name}" for name in noop}
    assert {warning.code for warning in loaded.warnings} == {"argument-without-effect"}
    assert loaded.recipe.training.model_dump(exclude_none=True) == {}
    assert loaded.recipe.hub.private is True


def test_false_is_not_0_and_1_is_not_true(tmp_path: Path) -> None:
    found = refused(tmp_path, {"no_cuda": 0, "group_by_length": 1, "use_ipex": 0, "label_smoothing_factor": False})
    assert set(found) == {
        "training.use_cpu", "training.group_by_length", "training.use_ipex", "training.label_smoothing_factor", "training.no_cuda",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["hub_token", "push_to_hub_token"])
def test_a_token_is_refused_and_never_shown(tmp_path: Path, name: str) -> None:
    problem = refused(tmp_path, {name: "abcdefgh"})[f"training.{name}"]
    assert problem.code == "secret-in-recipe"
    assert "abcdefgh" not in problem.text()


@pytest.mark.parametrize("ratio", [1.0, 1.5, -0.1, "0.1", True])
def test_an_invalid_warmup_ratio_is_refused(tmp_path: Path, ratio: Any) -> None:
    assert refused(tmp_path, {"warmup_ratio": ratio})["training.warmup_ratio"].code == "invalid-value"


def test_unknown_names_are_kept_for_the_schema() -> None:
    translation = migrate_training_args({"lerning_rate": 1, "beta": 0.1})
    assert translation.training == {"lerning_rate": 1, "beta": 0.1}
    assert not translation.problems


@pytest.mark.parametrize(
    ("parent", "child", "expected"),
    [
        ({"evaluation_strategy": "epoch"}, {"eval_strategy": "no"}, ("no", None)),
        ({"eval_strategy": "epoch"}, {"evaluation_strategy": "no"}, ("no", None)),
        ({"evaluation_strategy": "epoch"}, {"eval_strategy": None}, (None, None)),
        ({"warmup_steps": 7, "eval_strategy": "no"}, {"warmup_ratio": 0.5}, ("no", 0.5)),
    ],
)
def test_the_stronger_layer_has_precedence_under_either_name(
    parent: dict[str, Any], child: dict[str, Any], expected: tuple[Any, ...], tmp_path: Path
) -> None:
    dataset = {"train": {"path": "x"}, "eval": {"test_size": 0.1}}
    load(tmp_path, parent, dataset=dataset)
    (tmp_path / "r.yaml").rename(tmp_path / "parent.yaml")
    (tmp_path / "child.yaml").write_text(json.dumps({"extends": "parent.yaml", "training": child}))
    overrides = [f"training.{name}={json.dumps(value)}" for name, value in child.items()]
    for loaded in (load_recipe(str(tmp_path / "child.yaml")), load_recipe(str(tmp_path / "parent.yaml"), overrides)):
        assert (loaded.recipe.training.eval_strategy, loaded.recipe.training.warmup_steps) == expected


def test_two_names_with_different_values_in_one_layer_are_an_error(tmp_path: Path) -> None:
    found = refused(tmp_path, {}, "training.warmup_ratio=0.1", "training.warmup_steps=3")
    assert found["training.warmup_ratio"].code == "conflicting-arguments"
    dataset = {"train": {"path": "x"}, "max_prompt_length": 64}
    loaded = load(tmp_path, {"max_prompt_length": 128}, "dataset.max_prompt_length=32", dataset=dataset)
    assert loaded.recipe.dataset.max_prompt_length == 32


def test_a_former_name_of_a_refused_argument_is_refused(tmp_path: Path) -> None:
    found = refused(tmp_path, {"fsdp_min_num_params": 100})
    assert found["training.fsdp_min_num_params"].code == "removed-argument"


def test_settings_of_several_processes_are_moved_to_launch(tmp_path: Path) -> None:
    fsdp = {"fsdp_offload_params": "true", "sharding_strategy": "SHARD_GRAD_OP", "use_orig_params": True, "version": 1}
    loaded = load(
        tmp_path, {"fsdp": "full_shard auto_wrap", "fsdp_config": fsdp, "fsdp_transformer_layer_cls_to_wrap": "A"}
    )
    launch = loaded.recipe.launch
    assert launch.strategy == "fsdp"
    assert launch.fsdp_config is not None
    assert launch.fsdp_config.model_dump(exclude_defaults=True) == {
        "offload_params": True, "reshard_after_forward": False, "transformer_layer_cls_to_wrap": ["A"],
    }  # fmt: skip
    assert [warning.code for warning in loaded.warnings].count("moved-argument") == 2
    loaded = load(tmp_path, {"deepspeed": "ds.json"})
    assert loaded.recipe.launch.deepspeed_config == "ds.json"
    for arguments, rule in (
        ({"fsdp": "shard_grad_op"}, "reshard_after_forward: false"),
        ({"fsdp": "offload"}, "offload_params: true"),
        ({"fsdp_config": {"sharding_strategy": 4}}, "HYBRID_SHARD is not supported"),
        ({"fsdp_config": {"a": 1}}, "has no a"),
        ({"fsdp_config": "fsdp.json"}, "write the content of the file"),
    ):
        (problem,) = refused(tmp_path, arguments).values()
        assert rule in problem.message


def test_logging_dir_is_a_setting_unless_it_is_the_default_of_the_library(tmp_path: Path) -> None:
    tracked = {"report_to": "tensorboard"}
    loaded = load(tmp_path, {"logging_dir": "curves", **tracked})
    assert (loaded.recipe.training.logging_dir, loaded.warnings) == ("curves", ())
    loaded = load(tmp_path, {"logging_dir": "results/runs/Apr21_10-30-00_host", **tracked})
    assert (loaded.recipe.training.logging_dir, loaded.warnings[0].code) == (None, "argument-without-effect")
    loaded = load(tmp_path, {"logging_dir": "curves"})
    assert (loaded.warnings[0].code, loaded.warnings[0].line) == ("tracker-settings-unused", 4)


def test_nan_is_moved_like_other_values(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "model: {model_name_or_path: a/b}\ndataset: {train: {path: x}}\ntraining: {max_prompt_length: .nan}\n"
    )
    with pytest.raises(RecipeError, match=r"dataset.max_prompt_length: must be an integer, but is nan"):
        load_recipe(str(tmp_path / "r.yaml"))


def test_arguments_that_need_no_migration_have_no_policy() -> None:
    from orpo_cli.recipe.legacy.migration import ARGUMENT_POLICIES
    from orpo_cli.recipe.legacy.renamed_args import RENAMED_OPTIMIZERS
    from orpo_cli.recipe.load import CURRENT_ARGS
    from orpo_cli.recipe.schema.training import OPTIMIZERS

    assert CURRENT_ARGS.isdisjoint(ARGUMENT_POLICIES)
    assert {"beta", "learning_rate", "optim"} <= CURRENT_ARGS
    assert set(OPTIMIZERS).isdisjoint(RENAMED_OPTIMIZERS)
    assert "adamw_torch" in OPTIMIZERS
