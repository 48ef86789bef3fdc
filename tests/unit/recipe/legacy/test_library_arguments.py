"""Arguments of peft.LoraConfig and transformers.BitsAndBytesConfig are in the schema, or refused with a reason."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest

from orpo_cli.errors import RecipeError
from orpo_cli.recipe.legacy.unsupported_peft_args import (
    LORA,
    QUANTIZATION,
    UNSUPPORTED_LORA_INITS,
    UNSUPPORTED_PEFT_ARGS,
)
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.schema.lora import BdLoraConfig, LoftqConfig, LoraSection, VeloraConfig
from orpo_cli.recipe.schema.model import QuantizationSection

LEAST = "model: {model_name_or_path: a/b}\ndataset: {train: {path: x.jsonl}}\n"
LORA_PLUS_ARGUMENTS = {"loraplus_lr_ratio", "loraplus_lr_embedding"}


def test_every_argument_of_lora_config_is_supported_or_refused() -> None:
    from peft import LoraConfig

    library_arguments = {field.name for field in dataclasses.fields(LoraConfig)}
    supported = set(LoraSection.model_fields) - LORA_PLUS_ARGUMENTS
    assert supported.isdisjoint(LORA)
    assert supported | set(LORA) == library_arguments


def test_nested_mappings_have_the_keys_of_their_classes() -> None:
    from peft import LoftQConfig
    from peft.tuners.lora import config

    pairs = ((LoftqConfig, LoftQConfig), (VeloraConfig, config.VeloraConfig), (BdLoraConfig, config.BdLoraConfig))
    for supported, library_arguments in pairs:
        assert set(supported.model_fields) == {field.name for field in dataclasses.fields(library_arguments)}


def test_lora_plus_has_the_names_of_peft() -> None:
    from peft.optimizers import create_loraplus_optimizer

    assert "loraplus_lr_ratio" in inspect.signature(create_loraplus_optimizer).parameters
    assert "loraplus_lr_embedding" in inspect.getsource(create_loraplus_optimizer)


def test_every_argument_of_bits_and_bytes_config_is_supported_or_refused() -> None:
    from transformers import BitsAndBytesConfig

    library_arguments = set(inspect.signature(BitsAndBytesConfig).parameters) - {"kwargs"}
    assert set(QuantizationSection.model_fields) | (set(QUANTIZATION) - {"quant_method"}) == library_arguments


@pytest.mark.parametrize("section", UNSUPPORTED_PEFT_ARGS)
def test_unsupported_arguments_are_refused_with_the_reason(section: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    rest = "lora: {r: 8}\n" if section == "quantization" else ""
    for name, policy in UNSUPPORTED_PEFT_ARGS[section].items():
        file.write_text(f"{LEAST}{rest}{section}:\n  {name}: true\n")
        with pytest.raises(RecipeError) as caught:
            load_recipe(str(file))
        found = [each for each in caught.value.problems if each.code == "unsupported-peft-argument"]
        assert [each.path for each in found] == [f"{section}.{name}"]
        assert policy.reason in found[0].message
        assert found[0].line == LEAST.count("\n") + bool(rest) + 2


@pytest.mark.parametrize("init", [*UNSUPPORTED_LORA_INITS, "pissa_niter_16"])
def test_unsupported_initializations_are_refused_with_the_reason(init: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"{LEAST}lora: {{init_lora_weights: {init}}}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(file))
    assert [each.code for each in caught.value.problems] == ["unsupported-peft-argument"]


@pytest.mark.parametrize(
    ("sections", "code", "path"),
    [
        ("lora: {target_parameters: [a.b], lora_dropout: 0.1}", "dropout-on-parameters", "lora.lora_dropout"),
        ("lora: {target_parameters: [a.b], use_dora: true}", "adapter-settings", "lora.use_dora"),
        ("lora: {target_parameters: [a.b], init_lora_weights: pissa}", "adapter-settings", "lora.init_lora_weights"),
        ("lora: {loftq_config: {loftq_bits: 4}}", "adapter-settings", "lora.loftq_config"),
        ("lora: {init_lora_weights: loftq}", "adapter-settings", "lora.init_lora_weights"),
        ("lora: {init_lora_weights: orthogonal, rank_pattern: {q: 3}}", "adapter-settings", "lora.init_lora_weights"),
        ("lora: {lora_bias: true, use_dora: true}", "adapter-settings", "lora.lora_bias"),
        ("lora: {lora_bias: true, init_lora_weights: olora}", "adapter-settings", "lora.lora_bias"),
        ("lora: {ensure_weight_tying: true}", "adapter-settings", "lora.ensure_weight_tying"),
        ("lora: {loraplus_lr_embedding: 1e-6}", "lora-plus", "lora.loraplus_lr_embedding"),
        ("lora: {loraplus_lr_ratio: 4}\ntraining: {optim: adalomo}", "lora-plus", "lora.loraplus_lr_ratio"),
        ("lora: {target_modules: .*q_proj, layers_to_transform: 1}", "layers-need-target-list", "lora.layers_to_transform"),
        *(
            (f"lora: {{init_lora_weights: {init}{more}}}\nquantization: {{load_in_4bit: true}}", "adapter-settings",
             "lora.init_lora_weights")
            for init, more in (("pissa", ""), ("olora", ""), ("mica", ""), ("loftq", ", loftq_config: {loftq_bits: 4}"))
        ),
        ("lora: {r: 8}\nquantization: {load_in_8bit: true, bnb_4bit_quant_type: fp4}", "quantization-settings-unused",
         "quantization.bnb_4bit_quant_type"),
    ],
)  # fmt: skip
def test_combinations_that_peft_does_not_support_are_refused(
    sections: str, code: str, path: str, tmp_path: Path
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"{LEAST}{sections}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(file), strict=True)
    assert [(each.code, each.path) for each in caught.value.problems] == [(code, path)]


@pytest.mark.parametrize(
    ("model", "code", "path"),
    [
        ("rope_scaling: {factor: 2}", "rope-scaling", "model.rope_scaling"),
        ("rope_scaling: {rope_type: linear}", "rope-scaling", "model.rope_scaling"),
        ("rope_scaling: {rope_type: linear, factor: 2, beta_fast: 1}", "rope-scaling", "model.rope_scaling.beta_fast"),
        ("rope_scaling: {rope_type: linear, factor: 0.5}", "invalid-value", "model.rope_scaling.factor"),
        ("max_memory: {0: 20GB}", "max-memory-unused", "model.max_memory"),
        ("device_map: auto, max_memory: {0: much}", "invalid-value", "model.max_memory.0"),
        ("device_map: auto, max_memory: {gpu: 20GB}", "invalid-value", "model.max_memory"),
        ("device_map: fast", "invalid-value", "model.device_map"),
        ("token: hf_abcdefghijklmnopqrstuvwxyz", "secret-in-recipe", "model.token"),
    ],
)
def test_invalid_model_settings_are_refused(model: str, code: str, path: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(LEAST.replace("a/b}", f"a/b, {model}}}"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(file))
    assert [(each.code, each.path) for each in caught.value.problems] == [(code, path)]
