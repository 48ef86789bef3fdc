"""Tokens that a recipe adds are trained, kept, and there again for evaluation and merge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.data_tokenizers import byte_level
from support.tiny import tiny_llama, write_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

Orpo = Callable[..., Any]
MARKERS = ["<|im_start|>", "<|im_end|>"]
MODEL = {"chat_template": "chatml", "add_special_tokens": MARKERS}


def base(folder: Path, *, tied: bool) -> tuple[Any, int]:
    """A base model that knows no ChatML, beside which ``write_recipe`` writes its recipe."""
    tokenizer = byte_level(["<s>", "</s>"], None)
    model = tiny_llama(len(tokenizer), tied=tied)
    for part in (model, tokenizer):
        part.save_pretrained(folder / "model")
    return model, len(tokenizer)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_added_tokens_are_trained_and_come_along(tmp_path: Path, orpo_here: Orpo, tied: bool, lora: bool) -> None:
    before, words = base(tmp_path, tied=tied)
    recipe = write_recipe(tmp_path, lora=lora, model=MODEL)
    done = orpo_here("train", recipe)
    assert done.returncode == 0, done.stderr
    assert "added to the vocabulary, and trained: <|im_start|>, <|im_end|>" in done.stderr
    run = tmp_path / "run"
    tokenizer = AutoTokenizer.from_pretrained(run / ("adapter" if lora else "model"))
    assert tokenizer.convert_tokens_to_ids(MARKERS) == [words, words + 1]
    assert tokenizer.encode("<|im_end|>", add_special_tokens=False) == [words + 1]

    judged = orpo_here("eval", run, "--json")
    assert judged.returncode == 0, judged.stderr
    if not lora:
        return
    merged = orpo_here("merge", run, "--dtype", "float32", "--json")
    assert merged.returncode == 0, merged.stderr
    assert json.loads(merged.stdout)["verified"] is True
    model = AutoModelForCausalLM.from_pretrained(run / "merged", dtype=torch.float32)
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert embeddings.shape[0] == head.shape[0] == model.config.vocab_size == words + 2
    assert torch.equal(embeddings, head) == tied
    assert torch.equal(embeddings[:words], before.get_input_embeddings().weight)  # the others are as they were
    assert (
        model.generation_config.eos_token_id in (words + 1, [words + 1])
        or words + 1 in model.generation_config.eos_token_id
    )


def test_the_new_rows_are_learned(tmp_path: Path, orpo_here: Orpo) -> None:
    from safetensors.torch import load_file

    base(tmp_path, tied=False)
    settings = {"save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-2}
    assert orpo_here("train", write_recipe(tmp_path, model=MODEL, training=settings)).returncode == 0
    rows = [
        {
            name: value
            for name, value in load_file(folder / "adapter_model.safetensors").items()
            if "trainable_tokens" in name
        }
        for folder in (tmp_path / "run" / "checkpoints" / "checkpoint-1", tmp_path / "run" / "adapter")
    ]
    assert len(rows[0]) == 2  # of embeddings and of head
    for name, first in rows[0].items():
        assert first.shape[0] == 2
        assert not torch.equal(first, rows[1][name])


def test_nothing_is_added_unless_asked_for(tmp_path: Path, orpo_here: Orpo) -> None:
    _, words = base(tmp_path, tied=True)
    done = orpo_here("train", write_recipe(tmp_path, model={"chat_template": "chatml"}))
    assert done.returncode == 0, done.stderr
    assert len(AutoTokenizer.from_pretrained(tmp_path / "run" / "adapter")) == words
