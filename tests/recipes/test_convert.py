"""Conversion of other tools' configurations: outcome key is kept or explained in a comment, and the recipe is valid."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orpo_cli.model.model_source import ModelSource
from orpo_cli.recipe.convert.convert import Conversion, convert
from orpo_cli.recipe.convert.shared_settings import BUILT_IN
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.schema.training_fields import LIBRARY_DEFAULTS

EXAMPLES_DIR = Path(__file__).parent / "convert"
EXAMPLES = sorted(path.name for path in EXAMPLES_DIR.iterdir() if not path.name.endswith(".values.yaml"))


def convert_example(name: str) -> Conversion:
    return convert((EXAMPLES_DIR / name).read_text(encoding="utf-8"), name)


def outcome_of(conversion: Conversion, key: str) -> str:
    return {outcome.key: outcome.outcome for outcome in conversion.outcomes}[key]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_converted_to_the_expected_values(name: str) -> None:
    expected = (EXAMPLES_DIR / f"{name}.values.yaml").read_text(encoding="utf-8")
    assert convert_example(name).values == yaml.safe_load(expected)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_converted_recipe_is_valid_and_has_the_reported_values(name: str, tmp_path: Path) -> None:
    conversion = convert_example(name)
    (tmp_path / "x.yaml").write_text(conversion.text, encoding="utf-8")
    loaded = load_recipe(str(tmp_path / "x.yaml"))
    assert yaml.safe_load(conversion.text) == conversion.values
    assert loaded.recipe.model.model_name_or_path


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_recipe_mentions_every_key(name: str) -> None:
    conversion = convert_example(name)
    for outcome in conversion.outcomes:
        *_, last = re.split(r"[.\]]", outcome.key)
        assert re.search(rf"\b{re.escape(last)}\b", conversion.text) or any(
            other.key.startswith((f"{outcome.key}.", f"{outcome.key}[")) for other in conversion.outcomes
        ), outcome.key


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_recipe_stays_valid_if_a_commented_setting_is_turned_on(name: str, tmp_path: Path) -> None:
    conversion = convert_example(name)
    file = tmp_path / "x.yaml"
    lines = conversion.text.splitlines()
    settings = [index for index, line in enumerate(lines) if re.match(r"\s*# [a-z_]+: \S", line) and not is_prose(line)]
    for index in settings:
        changed = [*lines]
        changed[index] = changed[index].replace("# ", "", 1)
        section = next((number for number in range(index, 0, -1) if re.match(r"# [a-z]+:$", lines[number])), None)
        if section is not None and all(re.match(r"\s*#", line) for line in lines[section:index]):
            changed[section] = changed[section].replace("# ", "", 1)
        file.write_text("\n".join(changed), encoding="utf-8")
        load_recipe(str(file))


def is_prose(line: str) -> bool:
    return line.rstrip().endswith(".") or ";" in line


def test_axolotl_prefers_trl_beta_and_ignored_keys_are_reported() -> None:
    conversion = convert_example("axolotl-qlora.yml")
    assert conversion.values["training"]["beta"] == 0.1
    assert {outcome_of(conversion, "rl_beta"), outcome_of(conversion, "orpo_alpha")} == {"ignored"}


def test_keys_that_axolotl_does_not_use_with_orpo_have_no_effect() -> None:
    conversion = convert_example("axolotl-qlora.yml")
    keys = ("early_stopping_patience", "auto_find_batch_size", "loss_watchdog_threshold", "group_by_length")
    assert {outcome_of(conversion, key) for key in keys} == {"ignored"}
    assert "train_sampling_strategy" not in conversion.values["training"]
    assert "  # train_sampling_strategy: group_by_length" in conversion.text.splitlines()
    assert "lora_dropout" not in conversion.values["lora"]


def test_quantization_is_ignored_without_the_adapter_that_axolotl_requires() -> None:
    text = "base_model: a/b\nrl: orpo\nadapter: lora\nload_in_4bit: true\nlearning_rate: 1e-4\n"
    conversion = convert(text, "x.yml", dataset="pairs.jsonl")
    assert "quantization" not in conversion.values
    assert outcome_of(conversion, "load_in_4bit") == "ignored"
    assert "# load_in_4bit: true" in conversion.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base_model: a/b\nrl: dpo\n", "`rl: dpo`"),
        ("base_model: a/b\nmicro_batch_size: 1\n", "no `rl:`"),
        ("model_name_or_path: a/b\nfinetuning_type: lora\nstage: dpo\n", "`stage: dpo` with `pref_loss: sigmoid`"),
        ("model_name_or_path: a/b\nfinetuning_type: lora\nstage: sft\n", "not for ORPO: it has `stage: sft`"),
        ("model_name_or_path: a/b\nloss_type: sigmoid\n", "`loss_type` is not an argument of trl's ORPO"),
        ("DPOConfig(beta=0.1, output_dir='x')", "printed DPOConfig"),
        ("swift rlhf --rlhf_type dpo --model a/b\n", "`rlhf_type: dpo`"),
    ],
)
def test_a_configuration_for_another_method_is_rejected_with_exit_code_2(
    text: str, message: str, tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    (tmp_path / "x.yml").write_text(text)
    result = orpo_here("convert", tmp_path / "x.yml")
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_secrets_are_not_copied() -> None:
    conversion = convert_example("handbook-full.yaml")
    assert outcome_of(conversion, "hub_token") == "left-out"
    assert "hf_abc" not in conversion.text + repr(conversion.outcomes)


def test_a_dataset_mixture_of_alignment_handbook_becomes_sources_and_held_out_pairs() -> None:
    text = (
        "model_name_or_path: a/b\ndataset_mixture:\n  seed: 3\n  test_split_size: 0.05\n  datasets:\n"
        "  - {id: some/pairs, config: en, split: train_prefs, weight: 0.5, columns: [chosen, rejected]}\n"
    )
    conversion = convert(text, "x.yaml")
    assert conversion.tool == "alignment-handbook"
    assert conversion.values["dataset"] == {
        "train": {"path": "some/pairs", "name": "en", "split": "train_prefs"},
        "eval": {"test_size": 0.05},
        "shuffle_seed": 3,
    }
    assert outcome_of(conversion, "dataset_mixture.datasets[0].weight") == "left-out"


def test_all_133_arguments_of_april_2024_are_converted_and_the_plan_has_their_values(tmp_path: Path) -> None:
    from orpo_cli.machine import probe
    from orpo_cli.planning.resolve import resolve

    conversion = convert_example("april-2024.txt")
    assert len(conversion.outcomes) == 133
    assert {outcome.outcome for outcome in conversion.outcomes} == {"kept", "left-out", "empty"}
    assert conversion.placeholders == ("model.model_name_or_path", "dataset.train.path", "dataset.eval.test_size")
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
    assert orpo_here("validate", "--strict", target).returncode == 0
    assert orpo_here("plan", target).returncode == 0


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


def test_dataset_names_of_llama_factory_are_looked_up_in_dataset_info(
    tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    info = {
        "mine": {
            "file_name": "mine.json", "ranking": True, "formatting": "sharegpt", "num_samples": 20,
            "columns": {"messages": "turns", "chosen": "good", "rejected": "rejected", "system": "rules"},
            "tags": {"role_tag": "speaker", "content_tag": "content", "user_tag": "user", "assistant_tag": "agent"},
        },
        "hub": {"hf_hub_url": "some/pairs", "subset": "en", "split": "test", "columns": {"prompt": "question"}},
        "texts": {"hf_hub_url": "some/texts", "ranking": False},
    }  # fmt: skip
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info))
    source = tmp_path / "x.yaml"
    source.write_text("model_name_or_path: a/b\nstage: orpo\nfinetuning_type: full\ndataset: mine,hub,texts\n")
    document = json.loads(orpo_here("convert", source, "--json").stdout)
    assert document["values"]["dataset"]["train"] == [
        {
            "path": str(tmp_path / "data" / "mine.json"), "max_samples": 20,
            "columns": {"conversations": "turns", "chosen": "good", "system": "rules"},
        },
        {"path": "some/pairs", "name": "en", "split": "test", "columns": {"instruction": "question"}},
        {"path": "some/texts"},
    ]  # fmt: skip
    assert "lora" not in document["values"]
    assert document["todo"] == []
    assert any("`texts` does not contain preference pairs" in remark for remark in document["remarks"])
    unread = "messages are not read with role_tag: speaker, assistant_tag: agent of dataset_info.json"
    assert [remark for remark in document["remarks"] if unread in remark]
    (tmp_path / "data" / "dataset_info.json").write_text("{")
    result = orpo_here("convert", source)
    assert result.returncode == 2
    assert "dataset_info.json cannot be read" in result.stderr


def test_llama_factory_computes_the_nll_over_the_completion_only() -> None:
    conversion = convert_example("llama-factory-lora.yaml")
    assert conversion.values["training"]["loss_on_prompt"] is False
    assert "computes the NLL over the completion only" in conversion.text


def test_an_unknown_dataset_becomes_a_placeholder_with_its_name() -> None:
    conversion = convert_example("llama-factory-lora.yaml")
    assert conversion.placeholders == ("dataset.train.2.path",)
    assert "TODO: path of dataset `mine`" in conversion.text


def test_shell_expressions_are_left_out_and_not_replaced_by_defaults() -> None:
    conversion = convert_example("swift-lora.sh")
    assert {outcome_of(conversion, "output_dir"), outcome_of(conversion, "gradient_accumulation_steps")} == {"left-out"}
    assert "gradient_accumulation_steps" not in conversion.values["training"]
    assert conversion.values["training"]["per_device_train_batch_size"] == 2


def test_settings_without_effect_are_left_out_with_the_rule_as_reason(tmp_path: Path) -> None:
    text = "model_name_or_path: a/b\ndataset_name: some/pairs\neval_steps: 50\nlr_scheduler_type: constant\n"
    conversion = convert(text + "warmup_steps: 10\n", "x.yaml")
    assert {outcome_of(conversion, "eval_steps"), outcome_of(conversion, "warmup_steps")} == {"left-out"}
    assert "dataset.eval is not set" in conversion.text
    (tmp_path / "x.yaml").write_text(conversion.text)
    assert load_recipe(str(tmp_path / "x.yaml")).warnings == ()


def test_a_dollar_sign_in_a_value_is_not_an_environment_reference(tmp_path: Path) -> None:
    conversion = convert("base_model: a/b\nrl: orpo\noutput_dir: out/${NAME}\n", "x.yml", dataset="p.jsonl")
    (tmp_path / "x.yaml").write_text(conversion.text)
    assert load_recipe(str(tmp_path / "x.yaml")).recipe.output_dir == "out/${NAME}"


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


def test_built_in_templates_are_those_of_the_model_package() -> None:
    from orpo_cli.model import builtin_chat_templates

    assert set(builtin_chat_templates.BUILTIN_CHAT_TEMPLATES) == BUILT_IN


def test_an_inline_template_is_used_as_the_chat_template(tmp_path: Path) -> None:
    from support.tiny import tiny_tokenizer

    from orpo_cli.model.tokenizer import load_tokenizer
    from orpo_cli.recipe.schema import ModelSection

    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    template = str(convert_example("handbook-full.yaml").values["model"]["chat_template"])
    tokenizer = load_tokenizer(ModelSource(ModelSection(model_name_or_path=str(tmp_path), chat_template=template)))
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Why?"}], tokenize=False)
    assert text == "<|user|>\nWhy?<|im_end|>\n"


def test_an_existing_output_file_is_not_overwritten_without_force(
    tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    source, target = EXAMPLES_DIR / "axolotl-qlora.yml", tmp_path / "x.yaml"
    result = orpo_here("convert", source, "-o", target)
    assert (result.returncode, result.stdout.strip()) == (0, f"wrote {target}")
    assert f"{source}:73: liger_rope: unknown to axolotl" in result.stderr
    first = target.read_text()
    assert orpo_here("convert", source, "-o", target).returncode == 2
    assert orpo_here("convert", EXAMPLES_DIR / "trl-lora.sh", "-o", target).returncode == 2
    assert target.read_text() == first
    assert orpo_here("convert", EXAMPLES_DIR / "trl-lora.sh", "-o", target, "--force").returncode == 0
    assert target.read_text() != first
    assert orpo_here("validate", target).returncode == 0


def test_json_is_one_document_with_the_outcome_of_each_key(orpo_here: Callable[..., Any]) -> None:
    document = json.loads(orpo_here("convert", EXAMPLES_DIR / "axolotl-qlora.yml", "--json").stdout)
    assert document["from"] == "axolotl"
    assert document["values"]["lora"]["r"] == 64
    [entry] = [outcome for outcome in document["keys"] if outcome["key"] == "micro_batch_size"]
    path = "training.per_device_train_batch_size"
    assert entry == {
        "key": "micro_batch_size", "value": 2, "line": 45, "outcome": "kept", "path": path, "note": None,
    }  # fmt: skip


def test_a_converted_recipe_can_be_piped_into_plan(orpo: Callable[..., Any]) -> None:
    converted = orpo("convert", EXAMPLES_DIR / "trl-lora.sh", "--quiet")
    assert converted.stderr == ""
    planned = orpo("plan", "-", "--all", input=converted.stdout)
    assert planned.returncode == 0, planned.stderr
    assert "training.learning_rate = 8e-05  # as the recipe says" in planned.stdout


def test_model_and_dataset_options_override_the_file() -> None:
    text = (EXAMPLES_DIR / "axolotl-qlora.yml").read_text()
    conversion = convert(text, "x.yml", model="other/model", dataset="mine.jsonl")
    assert conversion.values["model"]["model_name_or_path"] == "other/model"
    assert conversion.values["dataset"]["train"] == {"path": "mine.jsonl"}
    assert outcome_of(conversion, "base_model") == "left-out"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.yml",), "nowhere.yml cannot be read"),
        (("x.yml", "--from", "axlotl"), "is not one of 'auto', 'axolotl'"),
        (("x.yml", "--force"), "--force does nothing"),
        (("x.yml", "--model", ""), "--model is empty"),
        (("x.yml", "--from", "orpo-config"), "contains no printed ORPOConfig"),
        (("x.yml",), "not recognized"),
        (("recipe.yml",), "looks like a recipe"),
    ],
)
def test_input_that_cannot_be_converted_is_an_error(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    orpo_here: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yml").write_text("one: 1\n")
    (tmp_path / "recipe.yml").write_text("model: {model_name_or_path: a}\ndataset: {train: {path: b}}\n")
    result = orpo_here("convert", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
