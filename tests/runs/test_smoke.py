"""Smoke runs (`orpo train --smoke`): what they take from the recipe, what they replace and report, what they leave on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tiny import write_pairs, write_recipe
from transformers import AutoConfig


@pytest.fixture
def smoke(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Any, list[Path]]]:
    """``smoke(recipe, …)``: how the command ended, and the temporary folders that it left."""

    def run(*arguments: str | Path) -> tuple[Any, list[Path]]:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        return orpo_here("train", "--smoke", *arguments), list(tmp_path.glob("orpo-smoke-*"))

    return run


def test_a_smoke_run_uses_data_and_tokenizer_of_the_recipe_and_leaves_nothing(tmp_path: Path, smoke: Any) -> None:
    recipe = write_recipe(tmp_path, steps=500)
    before = set(tmp_path.iterdir())
    done, left = smoke(recipe)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("recipe: smoke run passed, 2 steps")
    assert done.stdout.endswith("; replaced: weights\n")
    assert "tokenizer: one token a byte" not in done.stderr
    assert "synthetic" not in done.stderr
    assert "train.jsonl" in done.stderr
    assert "training on the 8 shortest pairs" in done.stderr
    assert "only 8 eval pairs" not in done.stderr  # advice for a training
    assert left == []
    assert {path for path in tmp_path.iterdir() if not path.name.startswith("orpo-pairs-")} == before  # goes at exit


def test_a_smoke_run_reports_every_value_that_it_changes(tmp_path: Path, smoke: Any) -> None:
    recipe = write_recipe(tmp_path, steps=500, training={"per_device_train_batch_size": 16})
    write_pairs(tmp_path / "train.jsonl", 100)
    done, _ = smoke(recipe)
    assert "weights: random, of a LlamaForCausalLM with width 64 instead of 32 and layers 2 instead of 2" in done.stderr
    for line in (
        "training.max_steps = 2  (--smoke: ",
        "training.per_device_train_batch_size = 2  (--smoke: ",
        f"dataset.train = {{path: {tmp_path}/train.jsonl, max_samples: 64}}  (--smoke: ",
        "merge.dtype = float32  (--smoke: ",
        "64 of 100 rows read (drawn at random, max_samples), 64 kept",
    ):
        assert line in done.stderr


def test_evaluation_and_checkpoints_happen_within_two_steps(tmp_path: Path, smoke: Any) -> None:
    often = {"eval_strategy": "steps", "eval_steps": 100, "save_strategy": "steps", "save_steps": 100}
    done, _ = smoke(write_recipe(tmp_path, training={**often, "load_best_model_at_end": True}), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["final_evaluation"]["eval_loss"] > 0


def test_layers_that_the_tiny_model_does_not_have_are_replaced_by_its_last(tmp_path: Path, smoke: Any) -> None:
    upper = ("--set", "lora.layers_to_transform=[20, 21]", "--set", "lora.target_modules=[q_proj]")
    done, _ = smoke(write_recipe(tmp_path), *upper)
    assert done.returncode == 0, done.stderr
    assert "lora.layers_to_transform = 1  (--smoke: the small model has 2 layers)" in done.stderr


def test_a_quantized_smoke_run_is_merged(tmp_path: Path, smoke: Any) -> None:
    done, _ = smoke(write_recipe(tmp_path, quantization={"load_in_4bit": True}))
    assert done.returncode == 0, done.stderr
    assert "verified: logits within" in done.stderr


def test_a_smoke_run_without_adapter(tmp_path: Path, smoke: Any) -> None:
    done, left = smoke(write_recipe(tmp_path, lora=False), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2
    assert left == []


def test_data_without_a_usable_pair_exits_4_and_keeps_the_folder(tmp_path: Path, smoke: Any) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "train.jsonl").write_text('{"prompt": "x", "chosen": "", "rejected": "b"}\n')
    done, left = smoke(recipe)
    assert done.returncode == 4
    assert len(left) == 1
    assert f"the files of the smoke run are kept in {left[0]}" in done.stderr
    assert (left[0] / "base" / "config.json").is_file()


@pytest.mark.parametrize(
    ("model", "architecture", "settings"),
    [
        ("someone/their-model", "llama", []),
        ("EleutherAI/pythia-1b", "gpt_neox", ["lora.target_modules=[query_key_value, dense]"]),
        ("someone/Qwen2.5-7B-tuned", "qwen2", ["lora.target_modules=[Wqkv]", "lora.modules_to_save=[wte, lm_head]"]),
    ],
)
def test_without_the_hub_the_name_of_a_model_gives_its_architecture(
    tmp_path: Path, smoke: Any, model: str, architecture: str, settings: list[str]
) -> None:
    changes = [part for each in [f"model.model_name_or_path={model}", *settings] for part in ("--set", each)]
    done, left = smoke(write_recipe(tmp_path), *changes)
    assert done.returncode == 0, done.stderr
    assert f"architecture: {architecture}, by the name of the model" in done.stderr
    assert done.stderr.count("is not on this machine") == 1
    assert done.stdout.endswith("; replaced: weights, tokenizer, architecture\n")
    assert ("lora.target_modules = all-linear" in done.stderr) == ("Wqkv" in str(settings))
    assert left == []


def test_an_architecture_that_cannot_be_shrunk_exits_3(tmp_path: Path, smoke: Any) -> None:
    recipe = write_recipe(tmp_path)
    AutoConfig.for_model("mamba", vocab_size=400, hidden_size=32, num_hidden_layers=2).save_pretrained(
        tmp_path / "model"
    )
    done, _ = smoke(recipe)
    assert done.returncode == 3
    assert "a small mamba model cannot be made" in done.stderr
    assert "--set training.max_steps=2" in done.stderr


@pytest.mark.parametrize("where", ["orpo_cli.model.tiny_model.save_tiny_base", "orpo_cli.workflows.smoke.train_plan"])
def test_ctrl_c_removes_the_smoke_run(where: str, tmp_path: Path, smoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    recipe = write_recipe(tmp_path)
    monkeypatch.setattr(where, pressed)
    done, left = smoke(recipe)
    assert done.returncode == 130
    assert "the smoke run is removed" in done.stderr
    assert left == []


def test_resume_with_smoke_is_refused(tmp_path: Path, smoke: Any) -> None:
    done, _ = smoke(write_recipe(tmp_path), "--resume", "auto")
    assert done.returncode == 2
    assert "--resume does nothing with --smoke" in done.stderr


def test_a_smoke_run_reports_to_no_tracker(tmp_path: Path, smoke: Any) -> None:
    done, _ = smoke(write_recipe(tmp_path, training={"report_to": "wandb"}))
    assert done.returncode == 0, done.stderr
    assert "training.report_to = none  (--smoke: nothing is sent anywhere)" in done.stderr


def test_a_pad_token_that_ends_turns_is_not_reported_as_untrained(tmp_path: Path, smoke: Any) -> None:
    recipe = write_recipe(tmp_path)
    for name, value in (("config.json", {"pad_token_id": 2}), ("tokenizer_config.json", {"pad_token": "<|im_end|>"})):
        path = tmp_path / "model" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | value))
    done, _ = smoke(recipe)
    assert done.returncode == 0, done.stderr
    assert "untrained-template-tokens" not in done.stderr
