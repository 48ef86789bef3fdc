"""Configurations of the models in shipped recipes, for machines that cannot reach the hub.

With them `orpo plan` knows the model's size, and `orpo train --smoke` its architecture, without the network. They have only the
keys of config.json that decide sizes and code paths. No model is trained with them, and the hub's configuration has precedence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_LLAMA_3 = {
    "model_type": "llama", "vocab_size": 128256, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "bos_token_id": 128000, "eos_token_id": 128001,
}  # fmt: skip
_LLAMA_3_8B = {
    **_LLAMA_3, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
}  # fmt: skip
_MISTRAL_7B = {
    "model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5, "sliding_window": 4096,
}  # fmt: skip
_OPT = {"model_type": "opt", "vocab_size": 50272, "max_position_embeddings": 2048}
_QWEN_3 = {
    "model_type": "qwen3", "vocab_size": 151936, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 32768, "rope_theta": 1000000.0,
    "bos_token_id": 151643, "eos_token_id": 151643,
}  # fmt: skip

CONFIGS: dict[str, dict[str, Any]] = {
    "facebook/opt-125m": {
        **_OPT, "hidden_size": 768, "ffn_dim": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "word_embed_proj_dim": 768,
    },
    "facebook/opt-350m": {
        **_OPT, "hidden_size": 1024, "ffn_dim": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "word_embed_proj_dim": 512, "do_layer_norm_before": False,
    },
    "facebook/opt-1.3b": {
        **_OPT, "hidden_size": 2048, "ffn_dim": 8192, "num_hidden_layers": 24, "num_attention_heads": 32,
        "word_embed_proj_dim": 2048,
    },
    "google/gemma-3-1b-pt": {
        "model_type": "gemma3_text", "vocab_size": 262144, "hidden_size": 1152, "intermediate_size": 6912,
        "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
        "max_position_embeddings": 32768, "sliding_window": 512,
    },
    "google/gemma-3-12b-pt": {
        "model_type": "gemma3",
        "text_config": {
            "vocab_size": 262208, "hidden_size": 3840, "intermediate_size": 15360, "num_hidden_layers": 48,
            "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256, "sliding_window": 1024,
        },
        "vision_config": {
            "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
            "image_size": 896, "patch_size": 14, "vision_use_head": False,
        },
    },
    "HuggingFaceTB/SmolLM2-135M-Instruct": {
        "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5, "rope_theta": 100000.0, "tie_word_embeddings": True,
    },
    "HuggingFaceTB/SmolLM3-3B-Base": {
        "model_type": "smollm3", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 11008,
        "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 4,
        "max_position_embeddings": 65536, "rope_theta": 5000000.0,
    },
    "meta-llama/Llama-2-7b-hf": {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
    },
    "meta-llama/Llama-3.1-8B": {**_LLAMA_3_8B, "max_position_embeddings": 131072},
    "meta-llama/Llama-3.2-3B": {
        **_LLAMA_3, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
        "head_dim": 128, "max_position_embeddings": 131072, "tie_word_embeddings": True,
    },
    "meta-llama/Meta-Llama-3-8B": {**_LLAMA_3_8B, "max_position_embeddings": 8192},
    "microsoft/phi-2": {
        "model_type": "phi", "vocab_size": 51200, "hidden_size": 2560, "intermediate_size": 10240,
        "num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 2048,
        "partial_rotary_factor": 0.4,
    },
    "microsoft/phi-4": {
        "model_type": "phi3", "vocab_size": 100352, "hidden_size": 5120, "intermediate_size": 17920,
        "num_hidden_layers": 40, "num_attention_heads": 40, "num_key_value_heads": 10,
        "max_position_embeddings": 16384, "rope_theta": 250000.0, "bos_token_id": 100257, "eos_token_id": 100257,
        "pad_token_id": 100257,
    },
    "microsoft/Phi-4-mini-instruct": {
        "model_type": "phi3", "vocab_size": 200064, "hidden_size": 3072, "intermediate_size": 8192,
        "num_hidden_layers": 32, "num_attention_heads": 24, "num_key_value_heads": 8,
        "max_position_embeddings": 131072, "partial_rotary_factor": 0.75, "tie_word_embeddings": True,
        "bos_token_id": 199999, "eos_token_id": 199999, "pad_token_id": 199999,
    },
    "mistralai/Mistral-7B-v0.1": _MISTRAL_7B,
    "mistralai/Mistral-7B-v0.3": {
        **_MISTRAL_7B, "vocab_size": 32768, "sliding_window": None, "rope_theta": 1000000.0,
    },
    "mistral-community/Mixtral-8x22B-v0.1": {
        "model_type": "mixtral", "vocab_size": 32000, "hidden_size": 6144, "intermediate_size": 16384,
        "num_hidden_layers": 56, "num_attention_heads": 48, "num_key_value_heads": 8, "num_local_experts": 8,
        "num_experts_per_tok": 2, "max_position_embeddings": 65536, "rope_theta": 1000000.0,
    },
    "Qwen/Qwen3-4B-Base": {
        **_QWEN_3, "hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-8B-Base": {**_QWEN_3, "hidden_size": 4096, "intermediate_size": 12288},
}  # fmt: skip


def known_config(name: str) -> PreTrainedConfig | None:
    """The configuration of the hub model ``name`` in this module, or None."""
    if name not in CONFIGS:
        return None
    from transformers import AutoConfig

    return AutoConfig.for_model(**CONFIGS[name])
