"""A shrunken model keeps what decides which code runs, of every architecture that a shipped recipe trains and some more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.tiny import tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from orpo_cli.model.known_configs import CONFIGS, known_config
from orpo_cli.model.shrink_config import shrink_config

OTHERS = ("gpt2", "gpt_neox", "gemma2", "cohere2", "gpt_oss", "olmo2", "qwen3_moe", "starcoder2")


def shrunk_model(config: Any) -> tuple[Any, Any]:
    tokenizer = tiny_tokenizer()
    small = shrink_config(config, tokenizer)
    torch.manual_seed(0)
    return small, AutoModelForCausalLM.from_config(small)


@pytest.mark.parametrize("name", [*CONFIGS, *OTHERS])
def test_a_shrunk_model_has_the_same_class_and_trains(name: str) -> None:
    config = known_config(name) or AutoConfig.for_model(name)
    small, model = shrunk_model(config)
    assert type(small) is type(config)
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
    ids = torch.arange(12).reshape(2, 6) + 5
    model.train()(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
    moved = [each.grad is not None and bool(each.grad.any()) for each in model.get_input_embeddings().parameters()]
    assert all(moved)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_original_configuration_is_unchanged(name: str) -> None:
    config = known_config(name)
    assert config is not None
    before = config.to_dict()
    shrink_config(config, tiny_tokenizer())
    assert config.to_dict() == before


def heads(name: str) -> tuple[int, int]:
    config = known_config(name)
    assert config is not None
    text = shrink_config(config, tiny_tokenizer()).get_text_config()
    return text.num_attention_heads, text.num_key_value_heads


def test_attention_stays_multi_head_grouped_query_or_multi_query() -> None:
    assert heads("meta-llama/Llama-2-7b-hf") == (4, 4)
    assert heads("meta-llama/Meta-Llama-3-8B") == (4, 2)
    assert heads("google/gemma-3-1b-pt") == (4, 1)


def test_one_layer_of_each_kind_is_kept() -> None:
    gemma, _ = shrunk_model(known_config("google/gemma-3-1b-pt"))
    assert gemma.layer_types == ["sliding_attention", "full_attention"]
    smollm, _ = shrunk_model(known_config("HuggingFaceTB/SmolLM3-3B-Base"))
    assert sorted(smollm.no_rope_layers) == [0, 1]
    llama, _ = shrunk_model(known_config("meta-llama/Llama-3.1-8B"))
    assert llama.num_hidden_layers == 2


def test_embeddings_stay_tied_or_untied_and_projected() -> None:
    for name, tied in (("meta-llama/Llama-3.2-3B", True), ("meta-llama/Llama-3.1-8B", False)):
        _, model = shrunk_model(known_config(name))
        assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    opt, _ = shrunk_model(known_config("facebook/opt-350m"))
    assert (opt.word_embed_proj_dim, opt.hidden_size) == (32, 64)


def test_rope_factors_match_the_smaller_heads() -> None:
    scaling = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 4096,
        "short_factor": [1.0] * 48,
        "long_factor": [1.5] * 48,
    }
    config = AutoConfig.for_model(
        "phi3", hidden_size=3072, num_attention_heads=24, max_position_embeddings=131072, rope_parameters=scaling,
        pad_token_id=0,
    )  # fmt: skip
    small, model = shrunk_model(config)
    assert len(small.rope_parameters["short_factor"]) == 6  # 0.75 x 16 / 2
    model(input_ids=torch.arange(6).reshape(1, 6))
