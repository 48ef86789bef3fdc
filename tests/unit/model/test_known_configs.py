"""The configurations that are known without the hub are those of the real models: their sizes are the published ones."""

from __future__ import annotations

import pytest

from orpo_cli.model.known_configs import CONFIGS, guess_model_type
from orpo_cli.model.model_facts import known_facts
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.schema import ModelSection
from orpo_cli.recipe.source.shipped_recipes import shipped_recipes

PARAMETERS = {  # as the hub counts the tensors of each model, tied embeddings once
    "facebook/opt-125m": 125_239_296,
    "facebook/opt-350m": 331_196_416,
    "facebook/opt-1.3b": 1_315_758_080,
    "google/gemma-3-1b-pt": 999_885_952,
    "google/gemma-3-12b-pt": 12_187_325_040,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "HuggingFaceTB/SmolLM3-3B-Base": 3_075_098_624,
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "microsoft/phi-2": 2_779_683_840,
    "microsoft/phi-4": 14_659_507_200,
    "microsoft/Phi-4-mini-instruct": 3_836_021_760,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "mistral-community/Mixtral-8x22B-v0.1": 140_620_634_112,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-4B-Base": 4_022_468_096,
    "Qwen/Qwen3-8B-Base": 8_190_735_360,
}


def test_every_known_model_has_a_published_size_to_compare() -> None:
    assert CONFIGS.keys() == PARAMETERS.keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_known_configuration_has_the_size_of_its_model(name: str) -> None:
    facts = known_facts(ModelSection(model_name_or_path=name))
    assert facts is not None
    assert facts.parameters == PARAMETERS[name]


def test_a_model_that_is_not_known_has_no_facts() -> None:
    assert known_facts(ModelSection(model_name_or_path="someone/their-model")) is None


def test_the_hub_models_of_all_shipped_recipes_are_known() -> None:
    models = {load_recipe(recipe.name).recipe.model.model_name_or_path for recipe in shipped_recipes()}
    assert {name for name in models if not name.startswith("package://")} <= CONFIGS.keys()


@pytest.mark.parametrize(
    ("name", "model_type"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2"),
        ("Qwen/Qwen3-0.6B", "qwen3"),
        ("meta-llama/Llama-3.2-1B", "llama"),
        ("mistralai/Mistral-7B-v0.3", "mistral"),
        ("google/gemma-2-9b", "gemma2"),
        ("google/gemma-3-4b-it", "gemma3_text"),
        ("microsoft/Phi-3-mini-4k-instruct", "phi3"),
        ("EleutherAI/pythia-410m", "gpt_neox"),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "llama"),
        ("allenai/OLMo-2-1124-7B", "olmo2"),
        ("gpt2", "gpt2"),
        ("someone/digital-assistant", "llama"),  # "git" is a type too, but not the beginning of a word here
    ],
)
def test_the_name_of_a_model_suggests_its_architecture(name: str, model_type: str) -> None:
    assert guess_model_type(name) == model_type
