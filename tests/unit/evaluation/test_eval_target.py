"""Evaluation targets: base and tuned model of a run, and what is not a target."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import save_tiny_model
from support.tiny_eval_run import make_eval_run, open_target_quietly
from support.tiny_run import byte_tokenizer, saved_logits, unmerged_logits
from transformers import LlamaConfig, LlamaForCausalLM

from orpo_cli.errors import HubError, UsageError
from orpo_cli.evaluation.eval_target import EvalTarget

IDS = torch.arange(120).remainder(97).reshape(2, 60)  # as tiny_run's

ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"use_dora": True},
    "modules_to_save": {"modules_to_save": ["lm_head"], "target_modules": ["q_proj", "v_proj"]},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "bias": {"bias": "all"},
}


def logits(target: EvalTarget, variant: Any) -> torch.Tensor:
    with target.use_variant(variant) as model, torch.inference_mode():
        return model(input_ids=IDS).logits.float()


def biased_base(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.15, attention_bias=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ADAPTERS)
def test_base_is_the_model_without_its_adapter_and_tuned_is_the_one_with_it(tmp_path: Path, kind: str) -> None:
    if kind == "bias":
        biased_base(tmp_path / "base")
    run = make_eval_run(tmp_path, peft=ADAPTERS[kind])
    if kind == "bias":
        move_biases(run.adapter)
    target = open_target_quietly(run.root)
    base, tuned = logits(target, "base"), logits(target, "tuned")
    assert torch.allclose(base, saved_logits(tmp_path / "base"), atol=1e-5)
    assert torch.allclose(tuned, unmerged_logits(run), atol=1e-5)
    assert (base - tuned).abs().max() > 0.05
    assert torch.equal(logits(target, "tuned"), tuned), "the adapter is on again"


def move_biases(adapter: Path) -> None:
    """As if training had moved the biases that PEFT saved with the adapter."""
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    biases = [name for name in weights if name.endswith("bias")]
    assert biases
    save_file({name: value + 0.3 if name in biases else value for name, value in weights.items()}, path)


def test_the_base_of_a_full_run_is_loaded_separately(tmp_path: Path) -> None:
    run = make_eval_run(tmp_path, full=True)
    model = LlamaForCausalLM.from_pretrained(run.model)
    model.lm_head.weight.data *= 1.5
    model.save_pretrained(run.model)
    target = open_target_quietly(run.root)
    assert target.variants == ("base", "tuned")
    assert torch.allclose(logits(target, "base"), saved_logits(tmp_path / "base"), atol=1e-5)
    assert torch.allclose(logits(target, "tuned"), saved_logits(run.model), atol=1e-5)


def test_a_model_folder_has_one_variant(tmp_path: Path) -> None:
    target = open_target_quietly(save_tiny_model(tmp_path / "model"))
    assert target.variants == ("model",)
    assert torch.allclose(logits(target, "model"), saved_logits(tmp_path / "model"), atol=1e-6)


def test_a_model_gets_the_requested_chat_template(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    assert (
        open_target_quietly(folder, chat_template="zephyr").tokenizer.chat_template
        != open_target_quietly(folder).tokenizer.chat_template
    )


def test_a_run_keeps_its_chat_template(tmp_path: Path) -> None:
    run = make_eval_run(tmp_path)
    with pytest.raises(UsageError, match="--chat-template does nothing for the run"):
        open_target_quietly(run.root, chat_template="zephyr")


def test_a_bare_adapter_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    run = make_eval_run(tmp_path)
    copied = shutil.copytree(run.adapter, tmp_path / "copied")  # in its place it names the run
    with pytest.raises(UsageError, match="LoRA adapter without its base") as caught:
        open_target_quietly(copied)
    assert "orpo merge" in str(caught.value.remedy)


def test_a_folder_without_model_or_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a run directory nor a model folder"):
        open_target_quietly(tmp_path)


def test_a_missing_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such run directory or model"):
        open_target_quietly(tmp_path / "runs" / "nothing")


def test_the_address_of_a_model_is_an_error_with_its_id() -> None:
    with pytest.raises(UsageError, match="is a web address, not a model") as caught:
        open_target_quietly("https://huggingface.co/org/name/tree/main")
    assert caught.value.remedy == "Write NAMESPACE/NAME: org/name."


def test_a_name_that_is_neither_local_nor_on_the_hub_is_an_error() -> None:
    with pytest.raises(HubError, match="org/nothing is not a local folder"):
        open_target_quietly("org/nothing")


def test_a_name_below_a_folder_of_runs_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="runs/nothing: no such run directory or model"):
        open_target_quietly("runs/nothing")
    run = make_eval_run(tmp_path / "mine")
    for name, remedy in {
        f"mine/{run.root.name}s": f"Did you mean mine/{run.root.name}?",
        "mine/unlike": f"The runs there: mine/{run.root.name}.",
    }.items():
        with pytest.raises(UsageError, match="no such run directory or model") as caught:
            open_target_quietly(name)
        assert caught.value.remedy == remedy
