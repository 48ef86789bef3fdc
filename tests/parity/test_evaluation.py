"""Evaluation over pairs: batches of any size give the same loss and metrics, and one batch gives those of TRL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from support.tiny import pairs, tiny_llama, tiny_tokenizer, write_pairs
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from orpo_cli.data.prepare import prepare
from orpo_cli.machine import probe
from orpo_cli.planning.resolve import resolve
from orpo_cli.recipe.load import load_recipe
from orpo_cli.training.make_trainer import TrainingInputs, make_trainer

HELD_OUT = 7
BY_BATCH = {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_model_preparation_time"}
PADDED = {"eval_logits/chosen", "eval_logits/rejected"}  # trl takes their means over padding as well
OWN = {
    "eval_pairs",
    "eval_pairs_chosen_longer",
    "eval_pairs_chosen_shorter",
    "eval_accuracies_chosen_longer",
    "eval_accuracies_chosen_shorter",
}


def evaluate(folder: Path, batch_size: int, fast_path: str, **training: Any) -> dict[str, float]:
    folder.mkdir()
    write_pairs(folder / "train.jsonl", 4)
    write_pairs(folder / "eval.jsonl", HELD_OUT, start=50)
    recipe = {
        "model": {"model_name_or_path": "unused/unused"},
        "dataset": {
            "train": {"path": str(folder / "train.jsonl")},
            "eval": {"path": str(folder / "eval.jsonl")},
            "max_prompt_length": 128,
        },
        "training": {"per_device_eval_batch_size": batch_size, "max_length": 256, "use_cpu": True, **training},
        "engine": {"fast_path": fast_path},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    plan, tokenizer = resolve(load_recipe(str(folder / "recipe.yaml")), probe()), tiny_tokenizer()
    data = prepare(plan.dataset, tokenizer, max_length=256, max_prompt_length=128, note=lambda _: None)
    inputs = TrainingInputs(tiny_llama(len(tokenizer)), tokenizer, data.train, data.eval)
    trainer = make_trainer(plan, folder / "out", inputs, [])
    trainer.evaluate()
    metrics: dict[str, float] = trainer.state.log_history[-1]
    assert metrics.keys() >= {"eval_pairs", "eval_pairs_chosen_longer", "eval_pairs_chosen_shorter"}
    assert metrics["eval_pairs"] == HELD_OUT
    return {name: value for name, value in metrics.items() if name not in OWN}


def trl_evaluation(folder: Path) -> dict[str, float]:
    """One batch of all pairs."""
    tokenizer, rows = tiny_tokenizer(), []
    for row in pairs(HELD_OUT, 50):
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        answers = {name: row[name][0]["content"] + "<|im_end|>" for name in ("chosen", "rejected")}  # type: ignore[index]
        rows.append({"prompt": prompt, **answers})
    arguments: dict[str, Any] = {"per_device_eval_batch_size": HELD_OUT, "use_cpu": True, "bf16": False}
    trainer = ORPOTrainer(
        model=tiny_llama(len(tokenizer)),
        args=ORPOConfig(output_dir=str(folder / "trl"), report_to="none", max_length=256, beta=0.1, **arguments),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.evaluate()
    metrics: dict[str, float] = trainer.state.log_history[-1]
    return metrics


def test_batches_of_any_size_give_the_evaluation_of_one_batch(tmp_path: Path) -> None:
    expected = trl_evaluation(tmp_path)
    for fast_path in ("required", "off"):
        for batch_size in (1, 3, 7):
            found = evaluate(tmp_path / f"{fast_path}-{batch_size}", batch_size, fast_path, dataloader_drop_last=True)
            assert found.keys() == expected.keys() - {"eval_model_preparation_time"}
            for name in expected.keys() - BY_BATCH - PADDED:
                assert found[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6), (fast_path, batch_size, name)


@pytest.mark.parametrize("fast_path", ["required", "off"])
def test_the_nll_of_completions_alone_is_a_mean_over_their_tokens(tmp_path: Path, fast_path: str) -> None:
    options = {"loss_on_prompt": False, "train_sampling_strategy": "group_by_length"}
    one, several = (evaluate(tmp_path / str(size), size, fast_path, **options) for size in (7, 2))
    assert several["eval_nll_loss"] == pytest.approx(one["eval_nll_loss"], rel=1e-6)
    assert several["eval_loss"] == pytest.approx(one["eval_loss"], rel=1e-6)
