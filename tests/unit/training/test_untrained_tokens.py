"""A chat template's tokens that the model never learned are named where nothing trains them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.tiny import save_tiny_model, tiny_tokenizer, write_recipe
from transformers import AutoModelForCausalLM

from orpo_cli.training.untrained_tokens import looks_untrained
from tests.conftest import CommandResult

IM_END = 2


def forget(folder: Path, token: int, value: torch.Tensor | float) -> None:
    """Give ``token`` the embedding ``value`` in the model of ``folder``."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.get_input_embeddings().weight.data[token] = value
    model.save_pretrained(folder)


def test_near_zero_and_duplicate_embeddings_look_untrained() -> None:
    torch.manual_seed(0)
    weight = torch.randn(100, 16)
    assert not any(looks_untrained(weight, token) for token in range(100))
    weight[3] *= 1e-4
    weight[7] = weight[50]
    assert [token for token in range(100) if looks_untrained(weight, token)] == [3, 7, 50]
    assert looks_untrained(weight.bfloat16(), 3)


@pytest.mark.parametrize(
    ("overrides", "forgotten", "warned"),
    [
        ([], True, True),
        ([], False, False),
        (["lora=null"], True, False),
        (["lora.modules_to_save=[embed_tokens, lm_head]"], True, False),
    ],
    ids=["lora", "known token", "every weight", "embeddings trained"],
)
def test_training_warns_of_untrained_tokens(
    tmp_path: Path, orpo_here: Callable[..., CommandResult], overrides: list[str], forgotten: bool, warned: bool
) -> None:
    assert tiny_tokenizer().convert_ids_to_tokens(IM_END) == "<|im_end|>"
    save_tiny_model(tmp_path / "model", tied=False)
    if forgotten:
        forget(tmp_path / "model", IM_END, 0.0)
    options = [part for override in overrides for part in ("--set", override)]
    done = orpo_here("train", write_recipe(tmp_path, steps=1), "--quiet", *options)
    assert done.returncode == 0, done.stderr
    assert ("writes <|im_end|>, of which the model never learned" in done.stderr) == warned
    assert ("modules_to_save: [embed_tokens, lm_head]" in done.stderr) == warned
