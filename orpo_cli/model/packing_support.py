"""Whether several sequences can lie in one row of a model, told apart by positions and mask alone.

The fast path of training needs that. What speaks against it is read from the model's class and configuration, so a model
without weights will do.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PACKABLE_LAYER_TYPES = {"full_attention", "sliding_attention", "chunked_attention"}
LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}  # rotary positions that depend on the longest sequence of the batch


def packing_obstacle(model: PreTrainedModel, max_length: int | None, *, dropout_disabled: bool = True) -> str | None:
    """The reason why ``model`` must be given one sequence a row; None where nothing speaks against it.

    ``max_length``: tokens of the longest sequence that will come; ``dropout_disabled``: trl's ``disable_dropout``.
    """
    config = model.config.get_text_config()
    kind = str(model.config.model_type)
    others = sorted(set(getattr(config, "layer_types", None) or ()) - PACKABLE_LAYER_TYPES)
    rotation = getattr(config, "rope_parameters", None) or {}
    known = rotation.get("original_max_position_embeddings")
    known = known or getattr(config, "original_max_position_embeddings", None) or config_positions(config)
    reasons: list[tuple[bool, str]] = [
        (bool(model.config.is_encoder_decoder), f"{kind} is an encoder-decoder model"),
        (not type(model).__module__.startswith("transformers."), "the model brings its own code"),
        (_is_recurrent(model), f"{kind} carries a state from token to token"),
        (bool(others), f"{kind} has layers of {', '.join(others)}"),
        (_has_alibi(model), f"{kind} biases attention by distance (ALiBi)"),
        (not model._can_set_attn_implementation(), f"{kind} does not use transformers' attention interface"),
        ("position_ids" not in inspect.signature(model.forward).parameters, f"{kind} takes no positions"),
        (getattr(config, "use_bidirectional_attention", None) not in (None, False), f"{kind} also attends forward"),
        (bool(getattr(model.config, "output_router_logits", False)), "trl adds the router's auxiliary loss to its own"),
        (
            any(name in LENGTH_DEPENDENT_ROPE for name in _rope_types(rotation))
            and (max_length is None or known is None or max_length > known),
            f"{kind}'s rotary positions change with the longest sequence beyond {known} tokens",
        ),
        (
            attention_dropout(model, dropout_disabled) > 0,
            "dropout in attention is active, and would be drawn otherwise",
        ),
        (model.get_output_embeddings() is None, f"{kind} has no head over words"),
    ]
    return next((reason for applies, reason in reasons if applies), None)


def attention_dropout(model: PreTrainedModel, dropout_disabled: bool) -> float:
    """The largest dropout of attention weights that stays in training. ``disable_dropout`` reaches modules, not numbers."""
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


def config_positions(config: Any) -> int | None:
    """Longest sequence that the configuration's position embeddings cover."""
    positions = getattr(config, "max_position_embeddings", None)
    return positions if isinstance(positions, int) else None


def _is_recurrent(model: PreTrainedModel) -> bool:
    import torch

    return bool(model._is_stateful) or any(isinstance(module, torch.nn.Conv1d) for module in model.modules())


def _has_alibi(model: PreTrainedModel) -> bool:
    config = model.config
    attention = getattr(config, "attn_config", None)
    return (
        config.model_type in ("bloom", "mpt")
        or bool(getattr(config, "alibi", False))
        or bool(getattr(attention, "alibi", False))
    )


def _rope_types(rotation: dict[str, Any]) -> set[str]:
    """Of ``rope_parameters``, which may hold one for each kind of layer."""
    nested = [value for value in rotation.values() if isinstance(value, dict)]
    return {str(each.get("rope_type")) for each in (rotation, *nested)}
