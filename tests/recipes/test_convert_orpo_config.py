"""ORPOConfig, printed or in Python code, converted to a recipe with its arguments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.converted_examples import EXAMPLES_DIR, convert_example, outcome_of

from orpo_cli.recipe.convert.convert import convert
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.schema.training_fields import LIBRARY_DEFAULTS


def test_all_133_arguments_of_april_2024_are_converted_and_the_plan_has_their_values(tmp_path: Path) -> None:
    from orpo_cli.machine import probe
    from orpo_cli.planning.resolve import resolve

    conversion = convert_example("april-2024.txt")
    assert len(conversion.outcomes) == 133
    assert {outcome.outcome for outcome in conversion.outcomes} == {"kept", "left-out", "empty"}
    assert list(conversion.placeholders) == ["model.model_name_or_path", "dataset.train.path", "dataset.eval.test_size"]
    (tmp_path / "x.yaml").write_text(conversion.text, encoding="utf-8")
    loaded = load_recipe(str(tmp_path / "x.yaml"))
    assert loaded.warnings == ()
    planned = {**LIBRARY_DEFAULTS, **resolve(loaded, probe(tmp_path)).training}
    printed = {outcome.key: outcome.value for outcome in conversion.outcomes if outcome.key in LIBRARY_DEFAULTS}
    same_meaning = {  # printed differently in April 2024
        "hub_private_repo": None, "fsdp": None, "debug": "", "accelerator_config": None, "lr_scheduler_kwargs": None,
        "include_num_input_tokens_seen": "no", "fsdp_config": None, "run_name": None, "local_rank": -1,
    }  # fmt: skip
    set_by_machine = {"optim", "use_cpu", "dataloader_pin_memory"}
    set_by_orpo_cli = {
        "output_dir", "disable_tqdm", "remove_unused_columns", "logging_nan_inf_filter", "do_eval",
    }  # fmt: skip
    for name in printed.keys() - set_by_machine - set_by_orpo_cli:
        assert planned[name] == same_meaning.get(name, printed[name]), name


def test_a_printed_config_of_april_2024_can_be_converted_validated_and_planned(
    tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    target = tmp_path / "april.yaml"
    assert orpo_here("convert", EXAMPLES_DIR / "april-2024.txt", "-o", target).returncode == 0
    values = ("--set", "model.model_name_or_path=Qwen/Qwen2.5-0.5B", "--set", "dataset.train.path=pairs.jsonl")
    assert orpo_here("validate", "--strict", target, *values).returncode == 0
    assert orpo_here("plan", target, *values).returncode == 0


def test_a_config_printed_by_the_installed_library_is_converted_to_its_arguments() -> None:
    from trl.experimental.orpo import ORPOConfig

    arguments = {
        "output_dir": "out, of 'here'", "learning_rate": 3e-05, "beta": 0.2, "warmup_steps": 0.1, "eval_steps": 50,
        "eval_strategy": "steps", "save_strategy": "best", "report_to": ["wandb"], "lr_scheduler_type": "cosine",
        "optim": "paged_adamw_8bit", "gradient_checkpointing_kwargs": {"use_reentrant": False}, "use_cpu": True,
    }  # fmt: skip
    config = ORPOConfig(**arguments, bf16=False, hub_token="hf_" + "x" * 24)
    as_python = f"config = ORPOConfig({', '.join(f'{name}={value!r}' for name, value in arguments.items())})  # mine"
    for text in (str(config), repr(config), f"Arguments: {config}\nDone.", as_python):
        conversion = convert(text, "x.txt")
        values = conversion.values["training"] | {"output_dir": conversion.values["output_dir"]}
        assert {name: values.get(name) for name in arguments} == arguments
        assert "hf_xxx" not in conversion.text
        assert {outcome.outcome for outcome in conversion.outcomes} <= {"kept", "left-out", "empty"}


def test_orpo_config_is_found_among_other_calls_and_comments() -> None:
    text = (
        "# TrainingArguments(beta=1)\nlora = LoraConfig(r=16)\n"
        "args = trl.ORPOConfig(\n    beta=0.3,  # the paper's lambda, so it's small\n    output_dir='a, b',\n)\n"
    )
    conversion = convert(text, "train.py")
    assert conversion.values["training"]["beta"] == 0.3
    assert conversion.values["output_dir"] == "a, b"
    assert {outcome.key for outcome in conversion.outcomes} == {"beta", "output_dir"}


def test_python_values_without_a_yaml_type_are_converted_or_left_out(tmp_path: Path) -> None:
    text = (
        "ORPOConfig(report_to=('wandb', 'tensorboard'), debug={'b', 'a'}, seed=10**3, data_seed=1" + "0" * 40 + ", "
        "run_name=b'x', lr_scheduler_kwargs={1: 2j}, learning_rate=float('inf'), optim=OptimizerNames(…), beta=0.1)"
    )
    conversion = convert(text, "x.txt")
    assert conversion.values["training"]["report_to"] == ["wandb", "tensorboard"]
    assert {outcome_of(conversion, "seed"), outcome_of(conversion, "data_seed"), outcome_of(conversion, "optim")} == {
        "left-out"
    }
    (tmp_path / "x.yaml").write_text(conversion.text)
    load_recipe(str(tmp_path / "x.yaml"))
