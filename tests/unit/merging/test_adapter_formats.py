"""Adapters of PEFT with another vocabulary, of other tools and of wrapped models: merged as PEFT computes them, or refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from support.architectures import SIZES, build
from support.tiny import write_pairs
from support.tiny_run import byte_tokenizer

from orpo_cli.errors import MachineError, UsageError
from orpo_cli.merging.merge import MergeResult, merge
from orpo_cli.merging.merge_target import MergeRequest
from orpo_cli.model.model_source import locate

VOCAB_SIZE = 300  # more than the tokenizer has
ATTENTION = ["q_proj", "v_proj"]
BOTH_ENDS = ["embed_tokens", "lm_head"]
IDS = torch.arange(80).remainder(61).reshape(2, 40)


def lora(**options: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "task_type": "CAUSAL_LM", **options})


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits


def save_adapter(
    folder: Path, config: Any, *, tied: bool = False, rows: int = 0, multiple: int | None = None, **save_options: Any
) -> torch.Tensor:
    """Save a base and an adapter in which all trained parameters changed. Returns the logits that PEFT computes with them.

    ``rows``: new size of the vocabulary; ``multiple``: rounded up to this.
    """
    build(hf.LlamaConfig(**{**SIZES, "vocab_size": VOCAB_SIZE}, tie_word_embeddings=tied), torch.float32).save_pretrained(folder / "base")  # fmt: skip
    byte_tokenizer().save_pretrained(folder / "base")
    base = hf.AutoModelForCausalLM.from_pretrained(
        folder / "base"
    )  # PEFT reads the size of the base's vocabulary there
    if rows:
        base.resize_token_embeddings(rows, pad_to_multiple_of=multiple)
    tuned = get_peft_model(base, config)
    generator = torch.Generator().manual_seed(1)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    tuned.save_pretrained(folder / "adapter", **save_options)
    return logits(tuned)


def rewrite(folder: Path, rename: Callable[[str], str | list[str]], file: str = "adapter_model.safetensors") -> None:
    """Rename the weights of the adapter; several names store it several times."""
    path = folder / "adapter" / "adapter_model.safetensors"
    weights = load_file(path)
    path.unlink()
    names = {name: rename(name) for name in weights}
    renamed = {each: weights[name].clone() for name, new in names.items() for each in ([new] if isinstance(new, str) else new)}  # fmt: skip
    target = path.with_name(file)
    torch.save(renamed, target) if target.suffix == ".bin" else save_file(renamed, target, metadata={"format": "pt"})


def merged(folder: Path, notes: list[str] | None = None, **options: Any) -> MergeResult:
    note = (lambda text: None) if notes is None else notes.append
    return merge(
        MergeRequest(folder / "adapter", folder / "out", base=str(folder / "base"), memory="1MB", **options), note=note
    )


def merged_logits(folder: Path) -> torch.Tensor:
    merged(folder)
    return logits(hf.AutoModelForCausalLM.from_pretrained(folder / "out", dtype=torch.float32))


# Both ends as PEFT saves them: the trained layer, its copy under modules_to_save and the layer before training.
VOCABULARIES: dict[str, dict[str, Any]] = {
    "extended, both ends in full": {"config": lora(modules_to_save=BOTH_ENDS), "rows": 308},
    "extended, embedding in full": {"config": lora(modules_to_save=["embed_tokens"]), "rows": 308},
    "extended, head in full": {"config": lora(modules_to_save=["lm_head"]), "rows": 308},
    "extended, padded": {"config": lora(modules_to_save=BOTH_ENDS), "rows": 308, "multiple": 64},
    "extended, embedding layers saved": {"config": lora(), "rows": 308, "save_embedding_layers": True},
    "same size, embedding layers saved": {"config": lora(modules_to_save=BOTH_ENDS), "save_embedding_layers": True},
    "extended, LoRA on both ends": {"config": lora(target_modules=["q_proj", *BOTH_ENDS]), "rows": 308},
    "extended, trained tokens": {"config": lora(trainable_token_indices=[3, 305]), "rows": 308},
    "cut, both ends in full": {"config": lora(modules_to_save=BOTH_ENDS), "rows": 280},
    "cut": {"config": lora(), "rows": 280},
}


@pytest.mark.parametrize("kind", VOCABULARIES)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_vocabulary_that_training_resized_is_that_of_the_merged_model(tmp_path, kind, tied):
    expected = save_adapter(tmp_path, tied=tied, **VOCABULARIES[kind])
    found = merged_logits(tmp_path)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-4


def test_rows_that_the_adapter_does_not_contain_are_reported(tmp_path):
    save_adapter(tmp_path, lora(), rows=308, save_embedding_layers=False)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([f"<new {number}>" for number in range(308 - len(tokenizer))])
    tokenizer.save_pretrained(tmp_path / "adapter")
    notes: list[str] = []
    merged(tmp_path, notes)
    for layer in ("model.embed_tokens", "lm_head"):
        assert any(f"does not contain 8 new rows of {layer}" in note for note in notes)


def test_a_vocabulary_cut_below_the_tokenizer_is_refused(tmp_path):
    save_adapter(tmp_path, lora(), rows=200)
    with pytest.raises(UsageError, match=r"cuts the vocabulary to 200 tokens, but its tokenizer has 260"):
        merged(tmp_path)


RENAMED: dict[str, tuple[dict[str, Any], Callable[[str], Any], str]] = {
    "state dict": ({}, lambda name: name.removeprefix("base_model.model."), "adapter_model.safetensors"),
    "adapter name": ({}, lambda name: name.replace(".weight", ".policy.weight"), "adapter_model.safetensors"),
    "torch.compile": ({}, lambda name: f"_orig_mod.{name}", "adapter_model.safetensors"),
    "FSDP": ({}, lambda name: re.sub(r"(layers\.\d)\.", r"\1._fsdp_wrapped_module.", name), "adapter_model.safetensors"),
    "DDP": ({}, lambda name: f"module.{name}", "adapter_model.bin"),
    "decoder": ({}, lambda name: name.replace("model.model.model.", "model.model."), "adapter_model.safetensors"),
    "vision model": ({}, lambda name: name.replace("model.layers", "model.language_model.layers"), "adapter_model.safetensors"),
    "unsloth": ({"modules_to_save": BOTH_ENDS}, lambda name: re.sub(r"(tokens|head)\.weight", r"\1.modules_to_save.default.weight", name), "adapter_model.safetensors"),
    "DoRA by name": ({"use_dora": True}, lambda name: re.sub(r"(lora_\w+)", r"\1.default", name), "adapter_model.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("saver", RENAMED)
def test_names_of_wrappers_and_other_nestings_are_those_of_peft(tmp_path, saver):
    options, rename, file = RENAMED[saver]
    expected = save_adapter(tmp_path, lora(**options))
    rewrite(tmp_path, rename, file)
    assert (merged_logits(tmp_path) - expected).abs().max() <= 1e-4
    assert sorted(path.name for path in (tmp_path / "adapter").glob("adapter_model*")) == [file]


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"layers_to_transform": [1]}], ids=["lora", "dora", "one layer"])  # fmt: skip
def test_an_adapter_of_mlx_is_merged_as_peft_computes_it(tmp_path, options):
    expected = save_adapter(tmp_path, lora(**options))
    to_mlx(tmp_path, "dora" if "use_dora" in options else "lora")
    assert (merged_logits(tmp_path) - expected).abs().max() <= 1e-4
    record = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert set(record["adapter_sha256"]) == {"adapter_config.json", "adapters.safetensors"}


def to_mlx(folder: Path, kind: str = "lora", **parameters: Any) -> None:
    """Rewrite the adapter as mlx-lm saves it."""
    path = folder / "adapter" / "adapter_model.safetensors"
    parts = {"lora_A.weight": "lora_a", "lora_B.weight": "lora_b", "lora_magnitude_vector.weight": "m", "lora_magnitude_vector": "m"}  # fmt: skip
    weights = {}
    for name, tensor in load_file(path).items():
        part = next(each for each in parts if name.endswith(each))
        weights[name.removeprefix("base_model.model.").replace(part, parts[part])] = tensor.t().contiguous()
    path.unlink()
    save_file(weights, path.with_name("adapters.safetensors"))
    settings = {"rank": 4, "scale": 2.0, "dropout": 0.0, **parameters}
    config = {"model": str(folder / "base"), "fine_tune_type": kind, "num_layers": 16, "lora_parameters": settings}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [("full", {}, "complete weights"), ("lora", {"alpha": 16}, "alpha 16"), ("lora", {"scale": None}, "no lora_parameters.scale")],
)  # fmt: skip
def test_an_adapter_of_mlx_with_an_unknown_factor_is_refused(tmp_path, kind, parameters, message):
    save_adapter(tmp_path, lora())
    to_mlx(tmp_path, kind, **parameters)
    with pytest.raises(UsageError, match=message):
        merged(tmp_path)


KINDS: dict[str, Any] = {
    "ln tuning": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"], task_type="CAUSAL_LM"),
    "ia3": lambda: peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
    "loha": lambda: peft.LoHaConfig(r=4, target_modules=ATTENTION, task_type="CAUSAL_LM"),
    "oft": lambda: peft.OFTConfig(oft_block_size=16, r=0, target_modules=ATTENTION, task_type="CAUSAL_LM"),
    "vera": lambda: peft.VeraConfig(r=8, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "tokens": lambda: peft.TrainableTokensConfig(token_indices=[3, 5], target_modules=["embed_tokens"], task_type="CAUSAL_LM"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_of_adapters_are_merged_as_peft_computes_them(tmp_path, kind):
    expected = save_adapter(tmp_path, KINDS[kind]())
    assert (merged_logits(tmp_path) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: peft.AdaptionPromptConfig(adapter_len=4, adapter_layers=1, task_type="CAUSAL_LM"), "kind ADAPTION_PROMPT"),
        (lambda: peft.PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"), "kind PREFIX_TUNING"),
        (lambda: lora(alora_invocation_tokens=[5, 6]), "activated LoRA"),
    ],
)  # fmt: skip
def test_adapters_without_weights_to_merge_are_refused_with_the_reason(tmp_path, config, message):
    save_adapter(tmp_path, config())
    with pytest.raises(UsageError, match=message):
        merged(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name: name.replace("self_attn.q_proj", "attn.query"), r"found: .*attn\.query.*, expected: .*q_proj\.lora_A"),
        (lambda name: [] if "layers.0" in name else name, r"4 of its weights are missing; expected: .*layers\.0"),
        (lambda name: [name, "base_model.model.v_head.weight"], r"1 of its weights have no parameter there; found: .*v_head"),
    ],
    ids=["other names", "missing", "more"],
)  # fmt: skip
def test_weights_that_do_not_fit_are_shown_with_the_expected_one(tmp_path, change, message):
    save_adapter(tmp_path, lora())
    rewrite(tmp_path, change)
    with pytest.raises(UsageError, match=message):
        merged(tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_weight_that_is_there_twice_with_different_values_is_refused(tmp_path):
    save_adapter(tmp_path, lora())
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({**weights, **{f"_orig_mod.{name}": 2 * each for name, each in weights.items()}}, path)
    with pytest.raises(UsageError, match="the same weight twice"):
        merged(tmp_path)


def test_embedding_and_head_of_different_sizes_are_refused(tmp_path):
    save_adapter(tmp_path, lora(modules_to_save=BOTH_ENDS), rows=308)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = {name: each for name, each in load_file(path).items() if "to_save" not in name and "original" not in name}
    save_file({name: each[:304].clone() if "lm_head" in name else each for name, each in weights.items()}, path)
    with pytest.raises(UsageError, match=r"304 rows in .*lm_head"):
        merged(tmp_path)


def test_named_adapters_in_subfolders_are_listed(tmp_path):
    save_adapter(tmp_path, lora())
    shutil.copytree(tmp_path / "adapter", tmp_path / "named" / "policy")
    (tmp_path / "named" / "reference").mkdir()
    (tmp_path / "named" / "reference" / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match="subfolders: policy, reference") as error:
        merge(MergeRequest(tmp_path / "named", tmp_path / "out"))
    assert "named/policy" in (error.value.remedy or "")
    shutil.copytree(tmp_path / "named" / "reference", tmp_path / "adapter" / "reference")
    notes: list[str] = []
    merged(tmp_path, notes)
    assert any("also contains the adapters reference" in note for note in notes)


def test_a_folder_with_a_model_and_an_adapter_is_a_model_for_its_own_merge_only(tmp_path, orpo_here):
    expected = save_adapter(tmp_path, lora())
    adapter = tmp_path / "adapter"
    shutil.copytree(tmp_path / "base", adapter, dirs_exist_ok=True)
    pairs = write_pairs(tmp_path / "pairs.jsonl", 2)
    for command in (["eval", adapter, "--data", pairs], ["generate", adapter, "--prompt", "x"], ["export", adapter]):
        done = orpo_here(*command)
        assert (done.returncode, "holds a model and an adapter" in done.stderr) == (2, True), done.stderr
        assert "Merge it first: `orpo merge" in done.stderr
    with pytest.raises(UsageError, match="holds a model and an adapter"):
        locate(str(adapter))
    for base in (None, str(adapter)):
        config = json.loads((adapter / "adapter_config.json").read_text())
        named = {**config, "base_model_name_or_path": str(adapter) if base is None else None}
        (adapter / "adapter_config.json").write_text(json.dumps(named))
        result = merge(MergeRequest(adapter, tmp_path / f"out {base is None}", base=base))
        found = logits(hf.AutoModelForCausalLM.from_pretrained(result.output, dtype=torch.float32))
        assert (found - expected).abs().max() <= 1e-4
        assert result.record.verified
        assert result.record.base == str(adapter)
    with pytest.raises(UsageError, match="also contains a model") as error:
        merge(MergeRequest(adapter, tmp_path / "unnamed"))
    assert "--base" in str(error.value)


def test_the_configuration_of_a_model_beside_an_adapter_is_no_model(tmp_path):
    save_adapter(tmp_path, lora())  # axolotl saves both
    shutil.copy(tmp_path / "base" / "config.json", tmp_path / "adapter")
    with pytest.raises(UsageError, match="holds an adapter, and no weights of a model"):
        locate(str(tmp_path / "adapter"))
    merged(tmp_path)


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("file", ["adapter_model.bin", "adapter_model.safetensors", "adapters.safetensors"])
def test_a_git_lfs_pointer_is_named(tmp_path, file):
    save_adapter(tmp_path, lora())
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter" / file).write_bytes(LFS_POINTER)
    with pytest.raises(MachineError, match="git-lfs pointer"):
        merged(tmp_path)
