"""`orpo train` and what follows it, on a CUDA device."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.tiny import tiny_tokenizer, write_pairs
from transformers import LlamaConfig, LlamaForCausalLM

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=256, intermediate_size=512, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
            pad_token_id=0,
        )
    ).bfloat16().save_pretrained(folder)  # fmt: skip
    tokenizer.save_pretrained(folder)
    return folder


def recipe(folder: Path, base: Path, **sections: Any) -> Path:
    write_pairs(folder / "train.jsonl", 64)
    training = sections.pop("training", {})
    recipe_values = {
        "name": "gpu",
        "output_dir": str(folder / "run"),
        "model": {"model_name_or_path": str(base)},
        "lora": {"r": 8, "target_modules": "all-linear"},
        "dataset": {"train": {"path": str(folder / "train.jsonl")}, "eval": {"test_size": 0.125}},
        "training": {
            "max_steps": 6, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 1e-3,
            "max_length": 256, "logging_steps": 1, **training,
        },
        **sections,
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_values))
    return path


def steps(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


@pytest.mark.parametrize("kind", ["lora", "checkpointed", "qlora", "full", "8bit"])
def test_a_run_on_the_fast_path_trains_and_merges(orpo: Any, tmp_path: Path, base: Path, kind: str) -> None:
    sections: dict[str, Any] = {"engine": {"fast_path": "required"}}
    if kind == "qlora":
        sections["quantization"] = {"load_in_4bit": True}
    if kind == "8bit":
        sections["quantization"] = {"load_in_8bit": True}
    if kind == "full":
        sections["lora"] = None
    if kind == "checkpointed":
        sections["training"] = {"gradient_checkpointing": True}
    path = recipe(tmp_path, base, **sections)
    done = orpo("train", path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "without torch.compile" not in done.stderr
    seen = steps(tmp_path)
    assert len(seen) == 6
    assert seen[-1]["loss"] < seen[0]["loss"]
    if kind != "full":
        merged = orpo("merge", tmp_path / "run", "--json")
        assert merged.returncode == 0, merged.stderr[-3000:]
    assert orpo("eval", tmp_path / "run").returncode == 0


def test_out_of_memory_on_the_device_leaves_the_step_unchanged(orpo: Any, tmp_path: Path, base: Path) -> None:
    """A real error: the process may use only a small part of the device's memory."""
    script = tmp_path / "limited.py"
    script.write_text(
        "import sys, torch\n"
        "from orpo_cli.cli.main import main\n"
        "total = torch.cuda.get_device_properties(0).total_memory\n"
        "limit = float(sys.argv.pop(1))\n"
        "if limit: torch.cuda.set_per_process_memory_fraction(limit / total)\n"
        "main()\n"
    )
    results = []
    for number, limit in enumerate((0, 160e6)):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = recipe(
            folder, base, engine={"max_tokens_per_microbatch": 16384},
            training={
                "max_steps": 3, "per_device_train_batch_size": 32, "learning_rate": 1e-3, "max_length": 256,
                "logging_steps": 1, "gradient_checkpointing": False, "seed": 3,
            },
        )  # fmt: skip
        done = subprocess.run(
            [sys.executable, str(script), str(limit), "train", str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert ("out of memory in step" in done.stderr) == bool(limit), done.stderr[-3000:]
        results.append(steps(folder))
    for limited, unlimited in zip(*results, strict=True):
        assert limited["loss"] == pytest.approx(unlimited["loss"], rel=5e-3)
