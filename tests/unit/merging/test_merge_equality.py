"""Merged weights are equal to PEFT's merge byte for byte where PEFT is correct; merged logits equal the unmerged model's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from support.architectures import SIZES, build
from support.tiny_run import byte_tokenizer

from orpo_cli.errors import UsageError
from orpo_cli.merging import write_model
from orpo_cli.merging.base_checkpoint import UnsupportedCheckpoint
from orpo_cli.merging.merge_target import MergeTarget
from orpo_cli.merging.peft_adapters import Adapter
from orpo_cli.merging.write_model import WrittenModel, write_merged_model
from orpo_cli.planning.plan import ModelPlan

VOCAB_SIZE = 300  # more than the tokenizer has
COMMON: dict[str, Any] = {**SIZES, "vocab_size": VOCAB_SIZE}
CONFIGS = {
    "llama": lambda tied: hf.LlamaConfig(**COMMON, tie_word_embeddings=tied),
    "qwen2": lambda tied: hf.Qwen2Config(**COMMON, tie_word_embeddings=tied),
    "gemma": lambda tied: hf.GemmaConfig(**COMMON, head_dim=8, tie_word_embeddings=tied),
    "mixtral": lambda tied: hf.MixtralConfig(
        **COMMON, num_local_experts=4, num_experts_per_tok=2, sliding_window=None, tie_word_embeddings=tied
    ),
}
TIED_LAYERS = {"embed_tokens", "lm_head"}
ATTENTION = ["q_proj", "v_proj"]
VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True, "target_modules": ATTENTION},
    "pissa": {"init_lora_weights": "pissa", "target_modules": ATTENTION},
    "patterns": {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 32}, "target_modules": ATTENTION},
    "layers": {"target_modules": ATTENTION, "layers_to_transform": [1]},
    "norms": {"modules_to_save": ["norm"]},
    "head": {"modules_to_save": ["lm_head"]},
    "embedding": {"modules_to_save": ["embed_tokens"]},
    "tokens": {"trainable_token_indices": [3, 5]},
    "tied layers": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
}


def save_base_and_adapter(
    tmp_path: Path, config: Any, keywords: dict[str, Any], dtype: torch.dtype = torch.float32
) -> None:
    """Save a base and an adapter in which all trainable parameters changed, in ``tmp_path``."""
    base = build(config, dtype)
    base.save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **keywords}
    tuned = get_peft_model(base.float(), LoraConfig(**settings))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in tuned.named_parameters():
        if any(part in name for part in ("lora_", "modules_to_save", "trainable_tokens_delta", "magnitude")):
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    tuned.save_pretrained(tmp_path / "adapter")


def write_merge(
    tmp_path: Path, *adapters: Adapter, dtype: str = "float32", base_dtype: str = "float32"
) -> WrittenModel:
    target = MergeTarget(
        adapters=adapters or (Adapter(tmp_path / "adapter"),),
        rundir=None,
        output=tmp_path / "out",
        section=ModelPlan(model_name_or_path=str(tmp_path / "base"), dtype=base_dtype, attn_implementation="eager"),
        quantization=None,
        device="cpu",
        dtype=dtype,
        max_shard_size="60KiB",
    )
    (tmp_path / "out").mkdir()
    return write_merged_model(tmp_path / "out", target, byte_tokenizer(), lambda text: None, lambda done, of: None)


def load(folder: Path) -> Any:
    return hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(80).remainder(61).reshape(2, 40)
    with torch.inference_mode():
        return model(input_ids=ids).logits


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: each for path in folder.glob("*.safetensors") for name, each in load_file(path).items()}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_merged_weights_equal_peft_and_logits_equal_the_unmerged_model(tmp_path, architecture, tied, variant):
    save_base_and_adapter(tmp_path, CONFIGS[architecture](tied), VARIANTS[variant])
    written = write_merge(tmp_path)
    assert written.method == "tensor by tensor"
    tuned = PeftModel.from_pretrained(load(tmp_path / "base"), tmp_path / "adapter").eval()
    expected = logits(tuned)
    assert (expected - logits(load(tmp_path / "base"))).abs().max() > 1e-2
    assert (logits(load(tmp_path / "out")) - expected).abs().max() <= 1e-4
    changed = TIED_LAYERS & {
        *VARIANTS[variant].get("modules_to_save", []),
        *VARIANTS[variant].get("target_modules", []),
    }
    if tied and changed:
        assert written.untied == {"lm_head.weight"}  # PEFT merges these into one matrix, or doubles it
        return
    tuned.merge_and_unload(safe_merge=True).save_pretrained(tmp_path / "peft")
    found, expected_weights = weights(tmp_path / "out"), weights(tmp_path / "peft")
    assert found.keys() == expected_weights.keys()
    assert [name for name, each in expected_weights.items() if not torch.equal(found[name], each)] == []


def test_experts_are_merged_into_the_tensors_of_the_base_checkpoint(tmp_path):
    keywords = {
        "target_modules": ["q_proj"],
        "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    }
    save_base_and_adapter(tmp_path, CONFIGS["mixtral"](False), keywords)
    assert write_merge(tmp_path).method == "tensor by tensor"
    tuned = PeftModel.from_pretrained(load(tmp_path / "base"), tmp_path / "adapter").eval()
    assert (logits(load(tmp_path / "out")) - logits(tuned)).abs().max() <= 1e-4
    tuned.merge_and_unload(safe_merge=True).save_pretrained(tmp_path / "peft")
    found, expected_weights, before = weights(tmp_path / "out"), weights(tmp_path / "peft"), weights(tmp_path / "base")
    assert "model.layers.0.block_sparse_moe.experts.3.w2.weight" in found
    assert found.keys() == expected_weights.keys() == before.keys()
    assert [name for name, each in expected_weights.items() if not torch.equal(found[name], each)] == []
    assert not torch.equal(found["model.layers.0.block_sparse_moe.experts.3.w2.weight"], before["model.layers.0.block_sparse_moe.experts.3.w2.weight"])  # fmt: skip


@pytest.mark.parametrize("kind", ["gpt2", "bin", "no prefix"])
def test_other_checkpoint_layouts_are_read(tmp_path, kind):
    config = (
        hf.GPT2Config(vocab_size=VOCAB_SIZE, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.2)
        if kind != "bin"
        else CONFIGS["llama"](True)
    )
    save_base_and_adapter(tmp_path, config, {"fan_in_fan_out": True} if kind != "bin" else {})
    if kind == "bin":
        path = tmp_path / "base" / "model.safetensors"
        torch.save({**load_file(path), "lm_head.weight": load_file(path)["model.embed_tokens.weight"]}, path.with_name("pytorch_model.bin"))  # fmt: skip
        path.unlink()
    if kind == "no prefix":  # as OpenAI's GPT-2 is stored
        from safetensors.torch import save_file

        path = tmp_path / "base" / "model.safetensors"
        save_file({name.removeprefix("transformer."): each for name, each in load_file(path).items()}, path)
    assert write_merge(tmp_path).method == "tensor by tensor"
    tuned = PeftModel.from_pretrained(load(tmp_path / "base"), tmp_path / "adapter").eval()
    assert (logits(load(tmp_path / "out")) - logits(tuned)).abs().max() <= 1e-4


def test_an_extended_vocabulary_has_the_rows_of_the_adapter(tmp_path):
    base = build(CONFIGS["llama"](False), torch.float32)
    base.save_pretrained(tmp_path / "base")
    base.resize_token_embeddings(VOCAB_SIZE + 8)
    tuned = get_peft_model(base, LoraConfig(r=4, target_modules=ATTENTION, modules_to_save=["embed_tokens", "lm_head"]))
    tuned.save_pretrained(tmp_path / "adapter")
    written = write_merge(tmp_path)
    assert written.resized_vocab_size == VOCAB_SIZE + 8
    found = weights(tmp_path / "out")
    assert torch.equal(found["model.embed_tokens.weight"], base.get_input_embeddings().weight)
    assert load(tmp_path / "out").config.vocab_size == VOCAB_SIZE + 8


def test_several_adapters_are_added_with_their_weights(tmp_path):
    save_base_and_adapter(tmp_path, CONFIGS["llama"](False), {"target_modules": ATTENTION})
    (tmp_path / "second").mkdir()
    save_base_and_adapter(
        tmp_path / "second",
        CONFIGS["llama"](False),
        {"target_modules": ["q_proj", "o_proj"], "r": 2, "use_rslora": True},
    )
    folders = (tmp_path / "adapter", tmp_path / "second" / "adapter")
    write_merge(tmp_path, Adapter(folders[0], 0.7), Adapter(folders[1], -0.3))
    base, found = weights(tmp_path / "base"), weights(tmp_path / "out")
    expected = dict(base)
    for folder, weight in zip(folders, (0.7, -0.3), strict=True):
        alone = PeftModel.from_pretrained(load(tmp_path / "base"), folder).merge_and_unload().state_dict()
        expected = {name: each + weight * (alone[name] - base[name]) for name, each in expected.items()}
    assert all((found[name] - each).abs().max() <= 1e-6 for name, each in expected.items())
    assert (
        found["model.layers.0.self_attn.q_proj.weight"] - base["model.layers.0.self_attn.q_proj.weight"]
    ).abs().max() > 1e-3


def raise_unsupported(*_: Any) -> Any:
    raise UnsupportedCheckpoint("unknown layout")


@pytest.mark.parametrize("variant", ["lora", "dora", "pissa", "head"])
@pytest.mark.parametrize("architecture", ["llama", "gemma"])
def test_an_unsupported_checkpoint_is_merged_in_memory(tmp_path, monkeypatch, architecture, variant):
    save_base_and_adapter(tmp_path, CONFIGS[architecture](False), VARIANTS[variant])
    monkeypatch.setattr(write_model, "build_weight_map", raise_unsupported)
    assert write_merge(tmp_path).method == "in memory: unknown layout"
    tuned = PeftModel.from_pretrained(load(tmp_path / "base"), tmp_path / "adapter").eval()
    assert (logits(load(tmp_path / "out")) - logits(tuned)).abs().max() <= 1e-4


def test_adapters_on_tied_layers_are_refused_in_memory(tmp_path, monkeypatch):
    save_base_and_adapter(tmp_path, CONFIGS["llama"](True), VARIANTS["tied layers"])
    monkeypatch.setattr(write_model, "build_weight_map", raise_unsupported)
    with pytest.raises(UsageError, match="ties to another weight"):
        write_merge(tmp_path)


@pytest.mark.parametrize("start", ["pissa_niter_4", "corda", "loftq", "lora_ga"])
def test_initializations_that_changed_the_base_irreversibly_are_refused_with_a_remedy(tmp_path, orpo_here, start):
    save_base_and_adapter(tmp_path, CONFIGS["llama"](False), {})
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": start}))
    done = orpo_here("merge", tmp_path / "adapter", "--base", tmp_path / "base", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "was trained with" in done.stderr
    assert "path_initial_model_for_weight_conversion" in done.stderr
    assert not (tmp_path / "out").exists()
