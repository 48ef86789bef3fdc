"""Shrinking of a model configuration: the same architecture, small enough to train in a second on any machine.

Settings that choose code stay: architecture and options, tied embeddings, grouped attention, every kind of layer, experts. Sizes
become small.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

HEADS, HEAD_DIM = 4, 16
MIN_LAYERS = 2
SMALL_SIZES = {  # sizes in transformers' configurations, and the most that remains of each
    "intermediate_size": 128,
    "ffn_dim": 128,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}


def shrink_config(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """A copy of ``config`` with few narrow layers and the vocabulary of ``tokenizer``."""
    small = copy.deepcopy(config)
    text = small.get_text_config()
    parts = [getattr(small, name, None) for name in small.sub_configs]  # such as a vision tower
    for part in (text, *(part for part in parts if part is not None and part is not text)):
        _narrow(part)
    text.vocab_size = len(tokenizer)
    for each in (small, text):
        each.bos_token_id = tokenizer.bos_token_id
        each.eos_token_id = tokenizer.eos_token_id
        each.pad_token_id = tokenizer.pad_token_id
    return small


def _narrow(config: PreTrainedConfig) -> None:
    """Make the sizes of one stack of layers small, in place."""
    values = vars(config)
    old_dim = values.get("head_dim") or config.hidden_size // config.num_attention_heads
    keys = values.get("num_key_value_heads")
    if keys is not None:
        config.num_key_value_heads = _shrink_key_value_heads(keys, config.num_attention_heads)
    _keep_one_layer_of_each_kind(config)
    embedding = values.get("word_embed_proj_dim")
    if embedding is not None:  # in OPT 350M half the hidden size
        config.word_embed_proj_dim = HEADS * HEAD_DIM // (1 if embedding == config.hidden_size else 2)
    config.num_attention_heads = HEADS
    config.hidden_size = HEADS * HEAD_DIM
    if values.get("head_dim") is not None:
        config.head_dim = HEAD_DIM
    for name, value in SMALL_SIZES.items():
        if isinstance(values.get(name), int):
            setattr(config, name, min(values[name], value))
    _truncate_rope_factors(values.get("rope_parameters"), HEAD_DIM / old_dim)


def _shrink_key_value_heads(keys: int, heads: int) -> int:
    """Key-value heads: 1, ``HEADS`` or half of them, for multi-query, multi-head and grouped-query attention."""
    return 1 if keys == 1 else HEADS if keys == heads else HEADS // 2


def _keep_one_layer_of_each_kind(config: PreTrainedConfig) -> None:
    """Keep the first layer of each kind, and at least ``MIN_LAYERS``, in place.

    The kind follows from the lists with an entry for each layer, such as layer_types and no_rope_layers.
    """
    count = config.num_hidden_layers
    lists = {name: value for name, value in vars(config).items() if isinstance(value, list) and len(value) == count}
    first_of: dict[str, int] = {}
    for index in range(count):
        first_of.setdefault(str([each[index] for each in lists.values()]), index)
    chosen = set(first_of.values())
    others = [index for index in range(count) if index not in chosen]
    kept = sorted({*chosen, *others[: max(0, MIN_LAYERS - len(chosen))]})
    for name, value in lists.items():
        setattr(config, name, [value[index] for index in kept])
    config.num_hidden_layers = len(kept)


def _truncate_rope_factors(parameters: Any, ratio: float) -> None:
    """Shorten the lists of factors for rotary frequencies (LongRoPE), in place, as smaller heads have fewer frequencies."""
    if not isinstance(parameters, dict):
        return
    for name, value in parameters.items():
        if isinstance(value, list):
            parameters[name] = value[: max(1, round(len(value) * ratio))]
        else:
            _truncate_rope_factors(value, ratio)
