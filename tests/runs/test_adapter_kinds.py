"""Every setting of `lora:` arrives in peft, trains, and is merged with the logits that were trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftConfig
from safetensors.torch import load_file
from support.architectures import SIZES
from support.tiny import save_tiny_model, tiny_tokenizer, write_recipe
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from orpo_cli.rundir import RunDir

Orpo = Callable[..., Any]
QV = {"target_modules": ["q_proj", "v_proj"]}
KINDS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "mica": {"init_lora_weights": "mica"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "lora-plus": {"loraplus_lr_ratio": 16.0, "loraplus_lr_embedding": 1e-5},
    "patterns": {**QV, "rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 32}},
    "layers": {**QV, "layers_to_transform": [1], "layers_pattern": "layers"},
    "excluded": {"exclude_modules": r".*\.mlp\..*"},
    "bias": {"bias": "lora_only"},
    "tokens": {"trainable_token_indices": [5, 6], "ensure_weight_tying": True},
    "tokens-of-modules": {"trainable_token_indices": {"embed_tokens": [5, 6]}},
    "velora": {"velora_config": {"num_groups": 8}},
    "blocks": {"use_bdlora": {"target_modules_bd_b": ["q_proj", "k_proj", "v_proj"], "nblocks": 2, "match_strict": False}},
}  # fmt: skip
FAST = ("rslora", "dora", "pissa", "bias", "tokens", "blocks")  # one of each way to merge
BACK = {"loraplus_lr_ratio", "loraplus_lr_embedding"}  # of the optimizer, so not in the adapter's configuration


def trained(folder: Path, orpo_here: Orpo, lora: dict[str, Any], **sections: dict[str, Any]) -> Path:
    recipe = write_recipe(folder, lora=False, **sections)
    values = {**yaml.safe_load(recipe.read_text()), "lora": {"r": 4, "lora_alpha": 8, **lora}}
    recipe.write_text(yaml.safe_dump(values))
    done = orpo_here("train", recipe)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def merged(run: Path, orpo_here: Orpo) -> dict[str, Any]:
    done = orpo_here("merge", run, "--dtype", "float32", "--json")
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads(done.stdout)
    assert record["verified"] is True
    return record


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in FAST else [pytest.mark.slow]) for kind in KINDS]
)
def test_an_adapter_of_each_kind_trains_and_merges(kind: str, tmp_path: Path, orpo_here: Orpo) -> None:
    run = trained(tmp_path, orpo_here, KINDS[kind])
    config = PeftConfig.from_pretrained(run / "adapter").to_dict()
    for name, value in KINDS[kind].items():
        if name not in BACK:
            saved = config[name]
            saved = sorted(saved) if isinstance(saved, set) else saved
            assert (saved | value == saved) if isinstance(value, dict) else saved == value, name
    merged(run, orpo_here)


def test_lora_plus_lets_b_learn_faster(tmp_path: Path, orpo_here: Orpo, monkeypatch: pytest.MonkeyPatch) -> None:
    from orpo_cli.training.trl_trainer import PairTrainer

    groups: list[tuple[float, float, int]] = []
    before = PairTrainer.create_scheduler

    def looked_at(self: PairTrainer, num_training_steps: int, optimizer: Any = None) -> Any:
        groups.extend((each["lr"], each["weight_decay"], len(each["params"])) for each in self.optimizer.param_groups)
        return before(self, num_training_steps, optimizer)

    monkeypatch.setattr(PairTrainer, "create_scheduler", looked_at)
    training = {"learning_rate": 1e-3, "weight_decay": 0.1}
    trained(tmp_path, orpo_here, {"loraplus_lr_ratio": 8.0}, training=training)
    rates = {(rate, decay) for rate, decay, count in groups if count}
    assert rates == {(1e-3, 0.1), (8e-3, 0.1)}


def test_the_experts_of_a_mixture_are_adapted(tmp_path: Path, orpo_here: Orpo) -> None:
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        **{**SIZES, "vocab_size": len(tokenizer)}, head_dim=8, num_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=16, decoder_sparse_step=1,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    lora = {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], **QV}
    run = trained(tmp_path, orpo_here, lora, training={"max_length": 120}, dataset={"max_prompt_length": 60})
    weights = load_file(run / "adapter" / "adapter_model.safetensors")
    experts = [name for name in weights if ".experts." in name and "lora_B" in name]
    assert experts
    assert all(weights[name].any() for name in experts)
    merged(run, orpo_here)


@pytest.mark.parametrize(
    ("lora", "weight"), [({"layer_replication": [[0, 2], [1, 2]]}, ".layers.2."), ({"lora_bias": True}, "lora_B.bias")]
)
def test_what_cannot_be_merged_trains_and_says_so(
    lora: dict[str, Any], weight: str, tmp_path: Path, orpo_here: Orpo
) -> None:
    run = trained(tmp_path, orpo_here, lora)
    weights = load_file(run / "adapter" / "adapter_model.safetensors")
    assert any(weight in name for name in weights)
    assert orpo_here("eval", run).returncode == 0
    done = orpo_here("merge", run)
    assert done.returncode == 2, done.stderr
    assert next(iter(lora)) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "lora",
    [
        {"init_lora_weights": "olora"},
        pytest.param({"use_dora": True}, marks=pytest.mark.slow),
        pytest.param({"loraplus_lr_ratio": 4.0}, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_of_a_kind_ends_as_one_that_was_not_stopped(
    lora: dict[str, Any], tmp_path: Path, orpo_here: Orpo
) -> None:
    training = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}
    ends = []
    for name in ("uninterrupted", "resumed"):
        folder = tmp_path / name
        folder.mkdir()
        save_tiny_model(folder / "model")
        run = trained(folder, orpo_here, lora, training=training)
        if name == "resumed":
            (run / "adapter").rename(run / "before")
            RunDir(run).write_run(status="interrupted")  # a finished run would not be trained again
            done = orpo_here("train", folder / "recipe.yaml", "--resume", run / "checkpoints" / "checkpoint-2")
            assert done.returncode == 0, done.stderr
        ends.append(load_file(run / "adapter" / "adapter_model.safetensors"))
    for name, value in ends[0].items():
        assert torch.allclose(value, ends[1][name], atol=1e-6), name
