"""Rotary positions stretched beyond the length that a model was pretrained on (``model.rope_scaling``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orpo_cli.errors import UsageError
from orpo_cli.recipe.schema import ModelSection

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

MODEL_PARAMETERS = ("rope_theta", "partial_rotary_factor")  # of the model, where the recipe says nothing else
FULL_ATTENTION = "full_attention"  # of models whose kinds of layers rotate differently, those that see far


def apply_rope_scaling(config: PreTrainedConfig, section: ModelSection) -> PreTrainedConfig:
    """``config`` with the rotary positions that ``section`` asks for, changed in place.

    ``max_position_embeddings`` grows with them; of ``dynamic`` it stays the length of pretraining, from which transformers
    stretches. Raises UsageError where the model has no rotary positions, or transformers cannot compute them.
    """
    if section.rope_scaling is None:
        return config
    text: Any = config.get_text_config()
    now = getattr(text, "rope_parameters", None)
    if not now:
        raise UsageError(
            f"model.rope_scaling: {config.model_type} has no rotary positions to stretch.", remedy="Remove it."
        )
    nested = text.nested_rope_parameter_keys(now)
    if nested and FULL_ATTENTION not in nested:
        raise UsageError(
            f"model.rope_scaling: {config.model_type} has a rotation for each of {', '.join(nested)}.",
            remedy="Change rope_parameters in its config.json.",
        )
    before = now[FULL_ATTENTION] if nested else now
    asked = section.rope_scaling.model_dump(exclude_none=True)
    new = {**{name: before[name] for name in MODEL_PARAMETERS if name in before}, **asked}
    trained = before.get("original_max_position_embeddings") or text.max_position_embeddings
    if asked["rope_type"] in ("yarn", "llama3", "longrope"):
        new.setdefault("original_max_position_embeddings", trained)
    text.rope_parameters = {**now, FULL_ATTENTION: new} if nested else new
    if asked["rope_type"] != "dynamic":
        longer = int(new.get("original_max_position_embeddings", trained) * new.get("factor", 1))
        text.max_position_embeddings = max(text.max_position_embeddings, longer)
    text.standardize_rope_params()
    return config


def longest_sequence(config: Any) -> int | None:
    """Tokens that the positions of a text configuration are made for, stretched ones among them."""
    longest = getattr(config, "max_position_embeddings", None)
    if not isinstance(longest, int):
        return None
    rotation = getattr(config, "rope_parameters", None) or {}
    return int(longest * rotation.get("factor", 1)) if rotation.get("rope_type") == "dynamic" else longest
