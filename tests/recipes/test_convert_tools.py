"""Settings of one tool whose meaning or default differs from that of a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.converted_examples import convert_example, outcome_of

from orpo_cli.model.model_source import ModelSource
from orpo_cli.recipe.convert.convert import convert
from orpo_cli.recipe.convert.shared_settings import BUILT_IN

AUTOTRAIN = "task: llm-orpo\nbase_model: a/b\nproject_name: x\ndata: {path: c/d, chat_template: chatml}\n"


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


def test_a_dataset_that_dataset_info_lacks_is_named_with_the_nearest_one(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lf").mkdir()
    info = {"kefu": {"file_name": "../pairs.jsonl"}, "other": {"file_name": "other.json"}, "empty": {"ranking": True}}
    (tmp_path / "lf" / "dataset_info.json").write_text(json.dumps(info))
    source = tmp_path / "x.yaml"
    text = "model_name_or_path: a/b\nstage: orpo\nfinetuning_type: full\n"
    for name, reason in (
        ("kefuu", "`kefuu` is not in lf/dataset_info.json, which has: kefu, other, empty; did you mean `kefu`?"),
        ("empty", "the entry `empty` of lf/dataset_info.json has neither file_name nor hf_hub_url."),
    ):
        source.write_text(f"{text}dataset: {name}\ndataset_dir: lf\n")
        done = orpo_here("convert", "x.yaml")
        assert f"dataset.train.path is a placeholder: {reason} Fill it in, or use --dataset." in done.stderr
        assert f"path: TODO/{name}" in done.stdout
    source.write_text(f"{text}dataset: kefuu\ndataset_dir: elsewhere\n")
    assert "there is no dataset_info.json" in orpo_here("convert", "x.yaml").stderr
    source.write_text(f"{text}dataset: kefu\ndataset_dir: lf\n")
    assert "path: pairs.jsonl #" in orpo_here("convert", "x.yaml").stdout
    (tmp_path / "far" / "data").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "data")
    (tmp_path / "far" / "pairs.jsonl").touch()
    (tmp_path / "far" / "data" / "dataset_info.json").write_text(json.dumps(info))
    source.write_text(f"{text}dataset: kefu\ndataset_dir: link\n")
    assert "path: link/../pairs.jsonl #" in orpo_here("convert", "x.yaml").stdout  # pairs.jsonl would be another file


def test_llama_factory_computes_the_nll_over_the_completion_only() -> None:
    conversion = convert_example("llama-factory-lora.yaml")
    assert conversion.values["training"]["loss_on_prompt"] is False
    assert "computes the NLL over the completion only" in conversion.text


def test_an_unknown_dataset_becomes_a_placeholder_with_its_name() -> None:
    conversion = convert_example("llama-factory-lora.yaml")
    assert list(conversion.placeholders) == ["dataset.train.2.path"]
    assert "TODO: `mine` is not one of LLaMA-Factory's own datasets" in conversion.text


def test_shell_expressions_are_left_out_and_not_replaced_by_defaults() -> None:
    conversion = convert_example("swift-lora.sh")
    assert {outcome_of(conversion, "output_dir"), outcome_of(conversion, "gradient_accumulation_steps")} == {"left-out"}
    assert "gradient_accumulation_steps" not in conversion.values["training"]
    assert conversion.values["training"]["per_device_train_batch_size"] == 2


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


@pytest.mark.parametrize("ratio", ["0", "0.0"])
def test_a_warmup_of_zero_is_not_the_default_of_autotrain(ratio: str) -> None:
    conversion = convert(f"{AUTOTRAIN}params: {{warmup_ratio: {ratio}}}\n", "x.yml")
    assert conversion.values["training"]["warmup_steps"] == 0
    assert outcome_of(conversion, "params.warmup_ratio") == "kept"


@pytest.mark.parametrize(
    ("params", "bits"),
    [
        ("peft: true", 4), ("peft: true, quantization: int4", 4), ("use_peft: true, use_int8: true", 8), ("peft: false", None),
        ("peft: true, quantization: null", None), ("peft: true, quantization: none", None), ("epochs: 1", None),
    ],
)  # fmt: skip
def test_autotrain_loads_the_model_in_4_bits_with_peft_by_default(params: str, bits: int | None) -> None:
    conversion = convert(f"{AUTOTRAIN}params: {{{params}}}\n", "x.yml")
    if bits is None:
        assert "quantization" not in conversion.values
    else:
        assert conversion.values["quantization"][f"load_in_{bits}bit"] is True
    defaults = "load_in_4bit: true # the default of autotrain with peft" in conversion.text
    assert defaults is (params == "peft: true")


def test_a_quantization_that_the_shell_sets_is_not_the_default_of_autotrain() -> None:
    command = "autotrain llm --train --trainer orpo --model a/b --data-path c/d --project-name x --use-peft"
    assert "quantization" in convert(command, "x.sh").values
    conversion = convert(f"{command} --quantization $(bits)", "x.sh")
    assert "quantization" not in conversion.values
    assert outcome_of(conversion, "quantization") == "left-out"


def test_layers_that_mlx_lm_lora_does_not_train_are_a_remark() -> None:
    text = "train_mode: orpo\nmodel: a/b\ndata: c/d\n"
    for kind, pointer in (("lora", True), ("full", False)):
        conversion = convert(f"{text}train_type: {kind}\n", "x.yaml")
        (remark,) = [
            each for each in conversion.remarks if "before version 1.0.1 trains only the last 16 layers" in each
        ]
        assert ("lora.layers_to_transform" in remark) is pointer
        for layers, outcome in ((8, "left-out"), (-1, "empty")):
            conversion = convert(f"{text}train_type: {kind}\nnum_layers: {layers}\n", "x.yaml")
            assert not any("16 layers" in each for each in conversion.remarks)
            assert outcome_of(conversion, "num_layers") == outcome
    reasons = {each.key: each.note for each in convert(f"{text}train_type: full\nnum_layers: 8\n", "x.yaml").outcomes}
    assert "before 1.1.10" in (reasons["num_layers"] or "")


@pytest.mark.parametrize("more", ["", "chat_template: chatml\n"])
def test_dropout_that_trl_does_not_disable_is_kept(more: str) -> None:
    text = f"model_name_or_path: a/b\ndataset_name: c/d\nuse_peft: true\n{more}"
    for dropout, expected in (("", 0.05), ("lora_dropout: 0.2\n", 0.2), ("lora_dropout: 0\n", 0)):
        values = convert(f"{text}disable_dropout: false\n{dropout}", "x.yaml").values
        assert (values["lora"]["lora_dropout"], values["training"]["disable_dropout"]) == (expected, False)
        for disabled in ("", "disable_dropout: true\n"):
            conversion = convert(f"{text}{disabled}{dropout}", "x.yaml")
            assert "lora_dropout" not in conversion.values["lora"]
            assert ("lora_dropout: 0.2" in conversion.text) is ("0.2" in dropout)


@pytest.mark.parametrize(
    ("more", "steps"),
    [
        ("", 500), ("save_steps: 50\n", 50), ("save_steps: 50\neval_steps: 10\n", 10),
        ("save_strategy: epoch\neval_strategy: steps\n", 500), ("save_strategy: epoch\n", None), ("eval_strategy: 'no'\n", None),
    ],
)  # fmt: skip
def test_ms_swift_evaluates_when_it_saves(more: str, steps: int | None) -> None:
    text = f"rlhf_type: orpo\nmodel: a/b\ndataset: c/d\nval_dataset: e/f\n{more}"
    assert convert(text, "x.yaml").values["training"].get("eval_steps") == steps


def test_the_example_script_of_trl_uses_trust_remote_code() -> None:
    command = "python examples/scripts/orpo.py --model_name_or_path a/b --dataset_name c/d --torch_dtype bfloat16 --trust_remote_code"
    conversion = convert(command, "x.sh")
    assert conversion.values["model"] == {"model_name_or_path": "a/b", "trust_remote_code": True}
    assert (outcome_of(conversion, "trust_remote_code"), outcome_of(conversion, "torch_dtype")) == ("kept", "ignored")
