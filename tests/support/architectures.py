"""Tiny random models of many architectures: every kind of attention, norm, head and tying, two or three layers each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

VOCAB_SIZE = 61
COMMON: dict[str, Any] = {"vocab_size": VOCAB_SIZE, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZES: dict[str, Any] = {
    **COMMON, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2,
}  # fmt: skip
GPT2 = {**COMMON, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.2}

# Architectures that the packed step must compute exactly. Alternating windows need more than two layers.
PACKED: dict[str, Callable[[], Any]] = {
    "llama": lambda: hf.LlamaConfig(**SIZES),
    "llama-tied-bias": lambda: hf.LlamaConfig(**SIZES, tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    "mistral-window": lambda: hf.MistralConfig(**SIZES, head_dim=8, sliding_window=6),
    "qwen2": lambda: hf.Qwen2Config(**SIZES),
    "qwen2-window": lambda: hf.Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "qwen3": lambda: hf.Qwen3Config(**SIZES, head_dim=8),
    "gemma2": lambda: hf.Gemma2Config(
        **SIZES, head_dim=8, sliding_window=6, query_pre_attn_scalar=8, final_logit_softcapping=2.0,
        attn_logit_softcapping=2.0,
    ),
    "gemma3": lambda: hf.Gemma3TextConfig(
        **{**SIZES, "num_hidden_layers": 3}, head_dim=8, sliding_window=6, query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "phi3": lambda: hf.Phi3Config(**SIZES),
    "gpt2": lambda: hf.GPT2Config(**GPT2),
    "opt": lambda: hf.OPTConfig(
        **COMMON, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128,
        word_embed_proj_dim=32, init_std=0.2,
    ),
    "gpt-neox": lambda: hf.GPTNeoXConfig(**{k: v for k, v in SIZES.items() if k != "num_key_value_heads"}),
    "mixtral": lambda: hf.MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
    "qwen3-moe": lambda: hf.Qwen3MoeConfig(
        **SIZES, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, decoder_sparse_step=1,
    ),
    "olmo2": lambda: hf.Olmo2Config(**SIZES),
    "granite": lambda: hf.GraniteConfig(
        **SIZES, logits_scaling=3.0, residual_multiplier=0.7, embedding_multiplier=2.0, attention_multiplier=0.2
    ),
    "cohere": lambda: hf.CohereConfig(**SIZES, logit_scale=0.25, use_qk_norm=False),
    "cohere2": lambda: hf.Cohere2Config(
        **{**SIZES, "num_hidden_layers": 4}, logit_scale=0.25, sliding_window=6, sliding_window_pattern=2
    ),
    "starcoder2": lambda: hf.Starcoder2Config(**SIZES, sliding_window=7),
    "stablelm": lambda: hf.StableLmConfig(**SIZES, partial_rotary_factor=0.5),
    "smollm3": lambda: hf.SmolLM3Config(**SIZES),
    "glm4": lambda: hf.Glm4Config(**SIZES, head_dim=8),
    "gpt-oss": lambda: hf.GptOssConfig(
        **SIZES, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=6,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
    "deepseek-v3": lambda: hf.DeepseekV3Config(
        **{**SIZES, "num_key_value_heads": 4}, moe_intermediate_size=16, n_routed_experts=4, num_experts_per_tok=2, n_group=2, topk_group=1,
        n_shared_experts=1, first_k_dense_replace=1, kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4,
        qk_nope_head_dim=8, v_head_dim=8, num_nextn_predict_layers=0,
    ),
    "phi": lambda: hf.PhiConfig(**SIZES),
    "llama4": lambda: hf.Llama4TextConfig(
        **{**SIZES, "num_hidden_layers": 4}, head_dim=8, attention_chunk_size=8, num_local_experts=2,
        num_experts_per_tok=1, intermediate_size_mlp=48, no_rope_layers=[1, 1, 1, 0], moe_layers=[1, 3],
        attn_temperature_tuning=False,
    ),
}  # fmt: skip

# Architectures that it must refuse, and a part of the reason.
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "t5": (
        lambda: hf.T5Config(
            vocab_size=VOCAB_SIZE, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0
        ),
        "encoder-decoder",
    ),
    "mamba": (lambda: hf.MambaConfig(**COMMON, hidden_size=32, num_hidden_layers=2, state_size=4), "state from token"),
    "bloom": (lambda: hf.BloomConfig(**COMMON, hidden_size=32, n_layer=2, n_head=4), "ALiBi"),
    "mpt": (lambda: hf.MptConfig(vocab_size=VOCAB_SIZE, d_model=32, n_layers=2, n_heads=4), "ALiBi"),
    "falcon-alibi": (
        lambda: hf.FalconConfig(**COMMON, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True),
        "ALiBi",
    ),
    "falcon": (
        lambda: hf.FalconConfig(**COMMON, hidden_size=32, num_hidden_layers=2, num_attention_heads=4),
        "attention interface",
    ),
    "mixtral-router-loss": (
        lambda: hf.MixtralConfig(**SIZES, num_local_experts=4, output_router_logits=True),
        "auxiliary loss",
    ),
    "llama-attention-dropout": (lambda: hf.LlamaConfig(**SIZES, attention_dropout=0.1), "dropout in attention"),
    "llama-dynamic-rope": (
        lambda: hf.LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
        "rotary positions",
    ),
}


def build(config: Any, dtype: torch.dtype = torch.float64, seed: int = 0) -> Any:
    """The model of ``config`` with random weights, norms and biases included, so that each of them affects the result."""
    torch.manual_seed(seed)
    kind = hf.AutoModelForSeq2SeqLM if config.is_encoder_decoder else hf.AutoModelForCausalLM
    model = kind.from_config(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.config.pad_token_id = 0
    if hasattr(model.config, "num_experts_per_tok"):
        model.set_experts_implementation("eager")  # the grouped kernel has no float64
    return model
