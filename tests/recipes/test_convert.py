"""orpo convert: every key of other tools' configurations is kept, commented or noted, and what comes out validates."""

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
from orpo_cli.recipe.convert.shared import BUILT_IN
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.schema.training_fields import LIBRARY_DEFAULTS

HERE = Path(__file__).parent / "convert"
EXAMPLES = sorted(path for path in HERE.iterdir() if not path.name.endswith(".values.yaml"))
names = [path.name for path in EXAMPLES]


def converted(name: str) -> Conversion:
    return convert((HERE / name).read_text(encoding="utf-8"), name)


def outcome(done: Conversion, key: str) -> str:
    return {each.key: each.outcome for each in done.outcomes}[key]


@pytest.mark.parametrize("name", names)
def test_an_example_becomes_the_values_written_beside_it(name: str) -> None:
    expected = (HERE / f"{name}.values.yaml").read_text(encoding="utf-8")
    assert converted(name).values == yaml.safe_load(expected)


@pytest.mark.parametrize("name", names)
def test_what_comes_out_validates_and_holds_what_it_says(name: str, tmp_path: Path) -> None:
    done = converted(name)
    (tmp_path / "x.yaml").write_text(done.text, encoding="utf-8")
    loaded = load_recipe(str(tmp_path / "x.yaml"))
    assert yaml.safe_load(done.text) == done.values
    assert loaded.recipe.model.model_name_or_path


@pytest.mark.parametrize("name", names)
def test_every_key_stands_in_the_recipe_or_in_its_comments(name: str) -> None:
    done = converted(name)
    for each in done.outcomes:
        *_, last = re.split(r"[.\]]", each.key)
        assert re.search(rf"\b{re.escape(last)}\b", done.text) or any(
            other.key.startswith((f"{each.key}.", f"{each.key}[")) for other in done.outcomes
        ), each.key


@pytest.mark.parametrize("name", names)
def test_every_line_that_is_offered_as_a_comment_validates_without_its_mark(name: str, tmp_path: Path) -> None:
    done = converted(name)
    file = tmp_path / "x.yaml"
    lines = done.text.splitlines()
    offered = [index for index, line in enumerate(lines) if re.match(r"\s*# [a-z_]+: \S", line) and not is_prose(line)]
    for index in offered:
        changed = [*lines]
        changed[index] = changed[index].replace("# ", "", 1)
        before = next((back for back in range(index, 0, -1) if re.match(r"# [a-z]+:$", lines[back])), None)
        if before is not None and all(re.match(r"\s*#", line) for line in lines[before:index]):
            changed[before] = changed[before].replace("# ", "", 1)
        file.write_text("\n".join(changed), encoding="utf-8")
        load_recipe(str(file))


def is_prose(line: str) -> bool:
    return line.rstrip().endswith(".") or ";" in line


def test_axolotl_takes_trl_beta_before_rl_beta_before_orpo_alpha_and_the_losers_are_named() -> None:
    done = converted("axolotl-qlora.yml")
    assert done.values["training"]["beta"] == 0.1
    assert {outcome(done, "rl_beta"), outcome(done, "orpo_alpha")} == {"ignored"}


def test_what_axolotl_does_not_read_under_orpo_is_not_acted_on() -> None:
    done = converted("axolotl-qlora.yml")
    dead = ("early_stopping_patience", "auto_find_batch_size", "loss_watchdog_threshold", "group_by_length")
    assert {outcome(done, key) for key in dead} == {"ignored"}
    assert "train_sampling_strategy" not in done.values["training"]
    assert "  # train_sampling_strategy: group_by_length" in done.text.splitlines()
    assert "lora_dropout" not in done.values["lora"]


def test_quantization_without_the_adapter_that_axolotl_wants_for_it_stays_off() -> None:
    text = "base_model: a/b\nrl: orpo\nadapter: lora\nload_in_4bit: true\nlearning_rate: 1e-4\n"
    done = convert(text, "x.yml", dataset="pairs.jsonl")
    assert "quantization" not in done.values
    assert outcome(done, "load_in_4bit") == "ignored"
    assert "# load_in_4bit: true" in done.text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("base_model: a/b\nrl: dpo\n", "`rl: dpo`"),
        ("base_model: a/b\nmicro_batch_size: 1\n", "no `rl:`"),
        ("model_name_or_path: a/b\nfinetuning_type: lora\nstage: dpo\n", "with `pref_loss: sigmoid`"),
        ("model_name_or_path: a/b\nfinetuning_type: lora\nstage: sft\n", "`stage: sft`: not ORPO"),
        ("model_name_or_path: a/b\nloss_type: sigmoid\n", "`loss_type` is no argument of trl's ORPO"),
        ("DPOConfig(beta=0.1, output_dir='x')", "printed DPOConfig"),
        ("swift rlhf --rlhf_type dpo --model a/b\n", "`rlhf_type: dpo`"),
    ],
)
def test_another_method_than_orpo_is_refused_with_exit_code_2(
    text: str, says: str, tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    (tmp_path / "x.yml").write_text(text)
    ended = orpo_here("convert", tmp_path / "x.yml")
    assert ended.returncode == 2
    assert says in ended.stderr
    assert ended.stdout == ""


def test_a_secret_is_repeated_nowhere() -> None:
    done = converted("handbook-full.yaml")
    assert outcome(done, "hub_token") == "left-out"
    assert "hf_abc" not in done.text + repr(done.outcomes)


def test_a_mixture_of_alignment_handbook_becomes_sources_and_held_out_pairs() -> None:
    text = (
        "model_name_or_path: a/b\ndataset_mixture:\n  seed: 3\n  test_split_size: 0.05\n  datasets:\n"
        "  - {id: some/pairs, config: en, split: train_prefs, weight: 0.5, columns: [chosen, rejected]}\n"
    )
    done = convert(text, "x.yaml")
    assert done.tool == "alignment-handbook"
    assert done.values["dataset"] == {
        "train": {"path": "some/pairs", "name": "en", "split": "train_prefs"},
        "eval": {"test_size": 0.05},
        "shuffle_seed": 3,
    }
    assert outcome(done, "dataset_mixture.datasets[0].weight") == "left-out"


def test_all_133_arguments_of_april_2024_are_dealt_with_and_the_plan_obeys_them(tmp_path: Path) -> None:
    from orpo_cli.machine import probe
    from orpo_cli.plan.resolve import resolve

    done = converted("april-2024.txt")
    assert len(done.outcomes) == 133
    assert {each.outcome for each in done.outcomes} == {"kept", "left-out", "empty"}
    assert done.placeholders == ("model.model_name_or_path", "dataset.train.path", "dataset.eval.test_size")
    (tmp_path / "x.yaml").write_text(done.text, encoding="utf-8")
    loaded = load_recipe(str(tmp_path / "x.yaml"))
    assert loaded.warnings == ()
    planned = {**LIBRARY_DEFAULTS, **resolve(loaded, probe(tmp_path)).training}
    printed = {each.key: each.value for each in done.outcomes if each.key in LIBRARY_DEFAULTS}
    same_meaning = {  # written otherwise in April 2024
        "hub_private_repo": None, "fsdp": None, "debug": "", "accelerator_config": None, "lr_scheduler_kwargs": None,
        "include_num_input_tokens_seen": "no", "fsdp_config": None, "run_name": None, "local_rank": -1,
    }  # fmt: skip
    machines_own = {"optim", "use_cpu", "dataloader_pin_memory"}
    tools_own = {
        "output_dir", "disable_tqdm", "remove_unused_columns", "logging_nan_inf_filter", "do_eval",
    }  # fmt: skip
    for name in printed.keys() - machines_own - tools_own:
        assert planned[name] == same_meaning.get(name, printed[name]), name


def test_the_print_of_april_2024_goes_through_convert_validate_and_plan(
    tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    target = tmp_path / "april.yaml"
    assert orpo_here("convert", HERE / "april-2024.txt", "-o", target).returncode == 0
    assert orpo_here("validate", "--strict", target).returncode == 0
    assert orpo_here("plan", target).returncode == 0


def test_a_configuration_that_todays_library_prints_says_what_it_was_made_with() -> None:
    from trl.experimental.orpo import ORPOConfig

    made = {
        "output_dir": "out, of 'here'", "learning_rate": 3e-05, "beta": 0.2, "warmup_steps": 0.1, "eval_steps": 50,
        "eval_strategy": "steps", "save_strategy": "best", "report_to": ["wandb"], "lr_scheduler_type": "cosine",
        "optim": "paged_adamw_8bit", "gradient_checkpointing_kwargs": {"use_reentrant": False}, "use_cpu": True,
    }  # fmt: skip
    config = ORPOConfig(**made, bf16=False, hub_token="hf_" + "x" * 24)
    as_python = f"config = ORPOConfig({', '.join(f'{name}={value!r}' for name, value in made.items())})  # mine"
    for text in (str(config), repr(config), f"Arguments: {config}\nDone.", as_python):
        done = convert(text, "x.txt")
        values = done.values["training"] | {"output_dir": done.values["output_dir"]}
        assert {name: values.get(name) for name in made} == made
        assert "hf_xxx" not in done.text
        assert {each.outcome for each in done.outcomes} <= {"kept", "left-out", "empty"}


def test_names_of_llama_factory_are_looked_up_in_the_dataset_info_beside_the_file(
    tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    info = {
        "mine": {
            "file_name": "mine.json", "ranking": True, "formatting": "sharegpt", "num_samples": 20,
            "columns": {"messages": "turns", "chosen": "good", "rejected": "rejected", "system": "rules"},
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
    assert any("does not call `texts` pairs" in remark for remark in document["remarks"])
    (tmp_path / "data" / "dataset_info.json").write_text("{")
    refused = orpo_here("convert", source)
    assert refused.returncode == 2
    assert "dataset_info.json cannot be read" in refused.stderr


def test_what_llama_factory_counts_in_its_likelihood_is_said() -> None:
    done = converted("llama-factory-lora.yaml")
    assert done.values["training"]["loss_on_prompt"] is False
    assert "counts the answer alone" in done.text


def test_a_dataset_that_nobody_explains_is_a_placeholder_that_names_it() -> None:
    done = converted("llama-factory-lora.yaml")
    assert done.placeholders == ("dataset.train.2.path",)
    assert "TODO: what dataset `mine` stands for" in done.text


def test_what_only_the_shell_can_work_out_is_left_out_and_no_default_takes_its_place() -> None:
    done = converted("swift-lora.sh")
    assert {outcome(done, "output_dir"), outcome(done, "gradient_accumulation_steps")} == {"left-out"}
    assert "gradient_accumulation_steps" not in done.values["training"]
    assert done.values["training"]["per_device_train_batch_size"] == 2


def test_what_would_do_nothing_is_left_out_and_the_rule_says_why(tmp_path: Path) -> None:
    text = "model_name_or_path: a/b\ndataset_name: some/pairs\neval_steps: 50\nlr_scheduler_type: constant\n"
    done = convert(text + "warmup_steps: 10\n", "x.yaml")
    assert {outcome(done, "eval_steps"), outcome(done, "warmup_steps")} == {"left-out"}
    assert "dataset.eval is not set" in done.text
    (tmp_path / "x.yaml").write_text(done.text)
    assert load_recipe(str(tmp_path / "x.yaml")).warnings == ()


def test_a_dollar_in_a_value_is_no_reference_to_the_environment(tmp_path: Path) -> None:
    done = convert("base_model: a/b\nrl: orpo\noutput_dir: out/${NAME}\n", "x.yml", dataset="p.jsonl")
    (tmp_path / "x.yaml").write_text(done.text)
    assert load_recipe(str(tmp_path / "x.yaml")).recipe.output_dir == "out/${NAME}"


def test_an_orpo_config_is_found_among_other_configurations_and_comments() -> None:
    text = (
        "# TrainingArguments(beta=1)\nlora = LoraConfig(r=16)\n"
        "args = trl.ORPOConfig(\n    beta=0.3,  # the paper's lambda, so it's small\n    output_dir='a, b',\n)\n"
    )
    done = convert(text, "train.py")
    assert done.values["training"]["beta"] == 0.3
    assert done.values["output_dir"] == "a, b"
    assert {each.key for each in done.outcomes} == {"beta", "output_dir"}


def test_python_that_yaml_has_no_kind_for_is_dealt_with(tmp_path: Path) -> None:
    text = (
        "ORPOConfig(report_to=('wandb', 'tensorboard'), debug={'b', 'a'}, seed=10**3, data_seed=1" + "0" * 40 + ", "
        "run_name=b'x', lr_scheduler_kwargs={1: 2j}, learning_rate=float('inf'), optim=OptimizerNames(…), beta=0.1)"
    )
    done = convert(text, "x.txt")
    assert done.values["training"]["report_to"] == ["wandb", "tensorboard"]
    assert {outcome(done, "seed"), outcome(done, "data_seed"), outcome(done, "optim")} == {"left-out"}
    (tmp_path / "x.yaml").write_text(done.text)
    load_recipe(str(tmp_path / "x.yaml"))


def test_the_built_in_templates_are_those_of_the_model_room() -> None:
    from orpo_cli.model import builtin_chat_templates

    assert set(builtin_chat_templates.BUILTIN_CHAT_TEMPLATES) == BUILT_IN


def test_a_template_written_in_the_recipe_is_the_template(tmp_path: Path) -> None:
    from support.tiny import tiny_tokenizer

    from orpo_cli.model.tokenizer import load_tokenizer
    from orpo_cli.recipe.schema import ModelSection

    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    template = str(converted("handbook-full.yaml").values["model"]["chat_template"])
    tokenizer = load_tokenizer(ModelSource(ModelSection(model_name_or_path=str(tmp_path), chat_template=template)))
    shown = tokenizer.apply_chat_template([{"role": "user", "content": "Why?"}], tokenize=False)
    assert shown == "<|user|>\nWhy?<|im_end|>\n"


def test_output_goes_to_a_file_that_is_never_written_over(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    source, target = HERE / "axolotl-qlora.yml", tmp_path / "x.yaml"
    ended = orpo_here("convert", source, "-o", target)
    assert (ended.returncode, ended.stdout.strip()) == (0, f"wrote {target}")
    assert f"{source}:73: liger_rope: unknown to axolotl" in ended.stderr
    first = target.read_text()
    assert orpo_here("convert", source, "-o", target).returncode == 2
    assert orpo_here("convert", HERE / "trl-lora.sh", "-o", target).returncode == 2
    assert target.read_text() == first
    assert orpo_here("convert", HERE / "trl-lora.sh", "-o", target, "--force").returncode == 0
    assert target.read_text() != first
    assert orpo_here("validate", target).returncode == 0


def test_json_is_one_document_with_the_fate_of_every_key(orpo_here: Callable[..., Any]) -> None:
    document = json.loads(orpo_here("convert", HERE / "axolotl-qlora.yml", "--json").stdout)
    assert document["from"] == "axolotl"
    assert document["values"]["lora"]["r"] == 64
    [entry] = [each for each in document["keys"] if each["key"] == "micro_batch_size"]
    path = "training.per_device_train_batch_size"
    assert entry == {
        "key": "micro_batch_size", "value": 2, "line": 45, "outcome": "kept", "path": path, "note": None,
    }  # fmt: skip


def test_a_converted_recipe_goes_through_a_pipe_into_plan(orpo: Callable[..., Any]) -> None:
    done = orpo("convert", HERE / "trl-lora.sh", "--quiet")
    assert done.stderr == ""
    planned = orpo("plan", "-", input=done.stdout)
    assert planned.returncode == 0, planned.stderr
    assert "training.learning_rate = 8e-05  # as the recipe says" in planned.stdout


def test_model_and_dataset_of_the_command_line_go_before_those_of_the_file() -> None:
    text = (HERE / "axolotl-qlora.yml").read_text()
    done = convert(text, "x.yml", model="other/model", dataset="mine.jsonl")
    assert done.values["model"]["model_name_or_path"] == "other/model"
    assert done.values["dataset"]["train"] == {"path": "mine.jsonl"}
    assert outcome(done, "base_model") == "left-out"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere.yml",), "nowhere.yml cannot be read"),
        (("x.yml", "--from", "axlotl"), "is not one of 'auto', 'axolotl'"),
        (("x.yml", "--force"), "--force does nothing"),
        (("x.yml", "--model", ""), "--model is empty"),
        (("x.yml", "--from", "orpo-config"), "holds no printed ORPOConfig"),
        (("x.yml",), "not recognised"),
        (("recipe.yml",), "looks like a recipe already"),
    ],
)
def test_what_cannot_be_converted_is_said(
    arguments: tuple[str, ...],
    says: str,
    tmp_path: Path,
    orpo_here: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yml").write_text("one: 1\n")
    (tmp_path / "recipe.yml").write_text("model: {model_name_or_path: a}\ndataset: {train: {path: b}}\n")
    ended = orpo_here("convert", *arguments)
    assert ended.returncode == 2
    assert says in ended.stderr
