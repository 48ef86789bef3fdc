"""Benchmark models: known architectures at full size with random weights.

Time and memory of a step do not depend on the values of the weights, and random ones need no download.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama-3.2-1b": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
        "max_position_embeddings": 131_072, "rope_theta": 500_000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    },
    "llama-3.1-8b": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        "max_position_embeddings": 131_072, "rope_theta": 500_000.0, "rms_norm_eps": 1e-5,
    },
    "qwen3-4b": {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 2560, "intermediate_size": 9728,
        "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        "max_position_embeddings": 40_960, "rope_theta": 1_000_000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
    },
    "smollm2-135m": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
        "rope_theta": 100_000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    },
    "tiny-llama": {  # to try the benchmarks themselves
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 49_152, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    },
}  # fmt: skip


def write_model_folder(architecture: str, tokenizer: str, folder: Path) -> Path:
    """Write a model folder without weights: the configuration, and the tokenizer files of the folder ``tokenizer``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**ARCHITECTURES[architecture], "dtype": "bfloat16"}))
    for file in Path(tokenizer).iterdir():
        if file.name.startswith(("token", "special_tokens", "chat_template", "vocab", "merges", "added_tokens")):
            shutil.copyfile(file, folder / file.name)
    return folder


def random_model(folder: Path, dtype: Any, device: str, bits: int = 0) -> Any:
    """The model of ``write_model_folder`` with random weights on ``device``; ``bits`` 4 quantizes its linear layers."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(folder), dtype=dtype, attn_implementation="sdpa"
        )
    if bits == 4:
        _quantize_4bit(model)
    return model


def _quantize_4bit(model: Any) -> None:
    """Quantize as transformers does with ``load_in_4bit``: NF4, double quantization, the head unquantized."""
    import bitsandbytes as bnb
    import torch

    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if type(module) is torch.nn.Linear and module is not head:
            parent, _, child = name.rpartition(".")
            kind = {"quant_type": "nf4", "compress_statistics": True}
            with torch.device("meta"):
                quantized = bnb.nn.Linear4bit(
                    module.in_features, module.out_features, bias=False, compute_dtype=module.weight.dtype, **kind
                )
            weight = bnb.nn.Params4bit(module.weight.data, requires_grad=False, **kind)
            quantized.weight = weight.to(module.weight.device)
            quantized.support_avx512bf16_for_cpu = (
                False  # as orpo_cli.model.base_model: the first pass in eval mode would repack it
            )
            setattr(model.get_submodule(parent), child, quantized)
    model.is_loaded_in_4bit = True
