"""Run directories as `orpo train` writes them, created in a second: a tiny random Llama, a byte tokenizer, an adapter.

The adapter is a real PEFT adapter whose matrices are random instead of trained, so that it changes every logit.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from orpo_cli.merging.merge import merge
from orpo_cli.merging.merge_target import MergeRequest
from orpo_cli.model.base_model import load_base
from orpo_cli.model.model_source import ModelSource
from orpo_cli.planning.plan import DatasetPlan, ExportPlan, LaunchPlan, MergePlan, ModelPlan, Plan, QuantizationPlan
from orpo_cli.recipe.schema import HubSection, LoraSection, Source
from orpo_cli.run_attempts import FINISHED
from orpo_cli.rundir import RecipeTexts, RunDir
from support.forks import start_fork
from support.json_lines import write_json_lines

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>")
FOUR_BIT = QuantizationPlan(load_in_4bit=True, bnb_4bit_compute_dtype="float32")
RECIPE = RecipeTexts(rerunnable="model: {}\n", original="model: {}\n")
EIGHT_BIT = QuantizationPlan(load_in_8bit=True, bnb_4bit_compute_dtype="float32")


def byte_tokenizer(*, eos: str = "<|endoftext|>") -> PreTrainedTokenizerBase:
    """A tokenizer with one token per byte. Its chat template ends turns with another token than EOS, as in many models."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, pad_token="<pad>", chat_template=CHATML)


def make_base(folder: Path, *, tied: bool = False, seed: int = 0) -> Path:
    """A Llama of two layers with logits in a range of several units."""
    torch.manual_seed(seed)
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.15, tie_word_embeddings=tied,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_plan(root: Path, base: Path | str, **changes: Any) -> Plan:
    """A LoRA plan in float32 on the CPU; ``changes`` replace its fields."""
    model = changes.get("model") or ModelPlan(model_name_or_path=str(base), dtype="float32", attn_implementation="sdpa")
    values: dict[str, Any] = {
        "name": root.name,
        "output_dir": str(root),
        "device": "cpu",
        "model": model,
        "quantization": None,
        "lora": LoraSection(r=4, lora_alpha=8),
        "dataset": DatasetPlan(train=[Source(path="example-org/pairs")], max_prompt_length=64),
        "training": {"beta": 0.1, "max_length": 128, "learning_rate": 1e-4},
        "engine": {"fast_path": "off", "max_tokens_per_microbatch": 1024},
        "launch": LaunchPlan(num_processes=1, strategy="single", pairs_per_step=1),
        "merge": MergePlan(dtype=model.dtype),
        "export": ExportPlan(dtype=model.dtype),
        "hub": HubSection(),
        "why": {},
    }
    return Plan(**{**values, **changes})


def make_run(
    root: Path, base: Path, *, peft: dict[str, Any] | None = None, full: bool = False, **changes: Any
) -> RunDir:
    """A finished run. ``peft``: arguments of peft.LoraConfig; ``changes``: fields of the plan."""
    plan = make_plan(root, base, **({"lora": None} | changes if full else changes))
    rundir = RunDir(root)
    root.mkdir(parents=True)
    rundir.plan.write_text(plan.to_json())
    rundir.recipe.write_text(f"# training.hub_token=hf_inAnOverride123456\nmodel:\n  model_name_or_path: {base}\n")
    model = load_base(ModelSource(plan.model), plan.quantization, "cpu")
    tokenizer = byte_tokenizer()
    if full:
        model.save_pretrained(rundir.model)
        tokenizer.save_pretrained(rundir.model)
    else:
        save_adapter(model, rundir.adapter, **(peft or {}))
        tokenizer.save_pretrained(rundir.adapter)
    write_records(rundir)
    return rundir


def save_adapter(model: PreTrainedModel, folder: Path, seed: int = 1, **keywords: Any) -> None:
    """Save a LoRA adapter that changes the logits of ``model``; ``keywords``: arguments of LoraConfig."""
    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **keywords}
    tuned = get_peft_model(model, LoraConfig(**settings))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name or "lora_embedding" in name or "modules_to_save" in name:
            parameter.data += 0.05 * torch.randn_like(parameter)
    tuned.save_pretrained(folder)


def write_records(rundir: RunDir) -> None:
    """run.json, data_report.json and metrics.jsonl as a finished training writes them."""
    rundir.write_run(
        status=FINISHED,
        started_at="2025-01-01T00:00:00Z",
        finished_at="2025-01-01T00:05:00Z",
        seconds=300.0,
        steps=2,
        orpo_cli="0.1.0",
        python="3.11.0",
        versions={"torch": torch.__version__, "trl": "1.16.0"},
        model={"revision": None, "architecture": "LlamaForCausalLM", "parameters": 100_000},
        final_metrics={"loss": 1.5, "rewards/accuracies": 0.75, "step": 2},
        final_evaluation={"eval_loss": 1.6, "eval_rewards/accuracies": 0.875, "eval_rewards/margins": 0.0625},
    )
    lines = [
        {"loss": 2.5, "nll_loss": 2.4, "rewards/accuracies": 0.5, "rewards/margins": 0.01, "step": 1},
        {"loss": 1.5, "nll_loss": 1.4, "rewards/accuracies": 0.75, "rewards/margins": 0.05, "step": 2},
        {"eval_loss": 1.6, "eval_rewards/accuracies": 0.875, "eval_rewards/margins": 0.0625, "step": 2},
    ]
    write_json_lines(rundir.metrics, lines)


def unmerged_logits(rundir: RunDir, *, adapter: Path | None = None) -> torch.Tensor:
    """Logits of the run's unmerged model, loaded by PEFT and computed as in training.

    In eval mode, 8-bit layers of bitsandbytes also quantize activations; in training on a CPU they do not.
    """
    plan = rundir.read_plan()
    base = load_base(ModelSource(plan.model), plan.quantization, "cpu")
    return _logits(PeftModel.from_pretrained(base, adapter or rundir.adapter).train())


def saved_logits(folder: Path) -> torch.Tensor:
    """Logits of a model folder that from_pretrained loads in float32."""
    return _logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


def _logits(model: torch.nn.Module) -> torch.Tensor:
    ids = torch.arange(120).remainder(97).reshape(2, 60)
    with torch.inference_mode():
        return model(input_ids=ids).logits.float()


def fork_merge(run: RunDir, **options: Any) -> int:
    """Fork a process that merges the run, with the libraries loaded, and return its id. If interrupted, it exits with 130."""

    def run_merge() -> None:
        torch.set_num_threads(1)  # a fork has no copies of the other threads
        try:
            merge(MergeRequest(run.root, **options))
        except KeyboardInterrupt:
            os._exit(130)

    return start_fork(run_merge)


def leftovers(folder: Path) -> list[str]:
    """Hidden files and folders directly in ``folder``, where a merge writes before it renames."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]
