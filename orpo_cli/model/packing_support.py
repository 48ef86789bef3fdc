"""Packing support: whether a row of a model can hold several sequences, separated by positions and mask alone.

The packed steps of training need it. It follows from the model's class and configuration; weights are not needed.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from orpo_cli.model.rope_scaling import config_positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PACKABLE_LAYER_TYPES = {"full_attention", "sliding_attention", "chunked_attention"}
LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}  # rotary positions that depend on the longest sequence of the batch


def packing_obstacle(model: PreTrainedModel, max_length: int | None, *, dropout_disabled: bool = True) -> str | None:
    """The reason why ``model`` needs one sequence per row; None if it supports packing.

    ``max_length``: tokens of the longest sequence; ``dropout_disabled``: trl's ``disable_dropout``.
    """
    config = model.config.get_text_config()
    kind = str(model.config.model_type)
    others = sorted(set(getattr(config, "layer_types", None) or ()) - PACKABLE_LAYER_TYPES)
    rotation = getattr(config, "rope_parameters", None) or {}
    known = rotation.get("original_max_position_embeddings")
    known = known or getattr(config, "original_max_position_embeddings", None) or config_positions(config)
    may_be_longer = max_length is None or known is None or max_length > known
    changes_rope = bool(LENGTH_DEPENDENT_ROPE & _rope_types(rotation)) and may_be_longer
    drops_attention = attention_dropout(model, dropout_disabled) > 0
    reasons: list[tuple[bool, str]] = [
        (bool(model.config.is_encoder_decoder), f"{kind} is an encoder-decoder model"),
        (not type(model).__module__.startswith("transformers."), "the model has custom code"),
        (_is_recurrent(model), f"{kind} carries a state from token to token"),
        (bool(others), f"{kind} has layers of {', '.join(others)}"),
        (_has_alibi(model), f"{kind} biases attention by distance (ALiBi)"),
        (not model._can_set_attn_implementation(), f"{kind} does not use transformers' attention interface"),
        ("position_ids" not in inspect.signature(model.forward).parameters, f"{kind} takes no positions"),
        (getattr(config, "use_bidirectional_attention", None) not in (None, False), f"{kind} also attends forward"),
        (bool(getattr(model.config, "output_router_logits", False)), "trl adds the router's auxiliary loss"),
        (changes_rope, f"{kind}'s rotary positions change with the longest sequence beyond {known} tokens"),
        (drops_attention, "dropout in attention is active, and would be drawn differently"),
        (model.get_output_embeddings() is None, f"{kind} has no language-model head"),
    ]
    return next((reason for applies, reason in reasons if applies), None)


def attention_dropout(model: PreTrainedModel, dropout_disabled: bool) -> float:
    """The largest active dropout of attention weights. ``disable_dropout`` changes modules, not plain numbers."""
    import torch

    found = 0.0
    for module in model.modules():
        if "Attention" not in type(module).__name__:
            continue
        for name in ("attention_dropout", "attn_dropout", "dropout", "attn_pdrop"):
            value = getattr(module, name, None)
            if isinstance(value, torch.nn.Dropout):
                value = 0.0 if dropout_disabled else value.p
            found = max(found, value) if isinstance(value, float) else found
    return found


def _is_recurrent(model: PreTrainedModel) -> bool:
    import torch

    return bool(model._is_stateful) or any(isinstance(module, torch.nn.Conv1d) for module in model.modules())


def _has_alibi(model: PreTrainedModel) -> bool:
    parts = (model.config, getattr(model.config, "attn_config", None))
    return model.config.model_type in ("bloom", "mpt") or any(getattr(part, "alibi", False) for part in parts)


def _rope_types(rotation: dict[str, Any]) -> set[str]:
    """The types in ``rope_parameters``, which may have one for each kind of layer."""
    nested = [value for value in rotation.values() if isinstance(value, dict)]
    return {str(each.get("rope_type")) for each in (rotation, *nested)}
