"""RoPE scaling: rotary positions beyond the length of pretraining (``model.rope_scaling``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orpo_cli.errors import UsageError
from orpo_cli.recipe.schema import ModelSection

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

MODEL_PARAMETERS = ("rope_theta", "partial_rotary_factor")  # of the configuration; kept unless the recipe sets them
FULL_ATTENTION = "full_attention"  # the layers to scale in a model with several kinds of layers


def apply_rope_scaling(config: PreTrainedConfig, section: ModelSection) -> PreTrainedConfig:
    """``config`` with the RoPE scaling of ``section``, changed in place.

    ``max_position_embeddings`` grows with it, except for ``dynamic``, where transformers needs the length of pretraining.
    Raises UsageError if the model has no rotary positions, or several kinds that cannot be scaled.
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
    written = section.rope_scaling.model_dump(exclude_none=True)
    new = {**{name: before[name] for name in MODEL_PARAMETERS if name in before}, **written}
    trained = before.get("original_max_position_embeddings") or text.max_position_embeddings
    if written["rope_type"] in ("yarn", "llama3", "longrope"):
        new.setdefault("original_max_position_embeddings", trained)
    text.rope_parameters = {**now, FULL_ATTENTION: new} if nested else new
    if written["rope_type"] != "dynamic":
        longer = int(new.get("original_max_position_embeddings", trained) * new.get("factor", 1))
        text.max_position_embeddings = max(text.max_position_embeddings, longer)
    text.standardize_rope_params()
    return config


def longest_sequence(config: Any) -> int | None:
    """Longest sequence for the positions of a text configuration, with RoPE scaling."""
    longest = config_positions(config)
    rotation = getattr(config, "rope_parameters", None) or {}
    return longest and int(longest * (rotation.get("factor", 1) if rotation.get("rope_type") == "dynamic" else 1))


def config_positions(config: Any) -> int | None:
    """``max_position_embeddings`` of a configuration."""
    positions = getattr(config, "max_position_embeddings", None)
    return positions if isinstance(positions, int) else None
