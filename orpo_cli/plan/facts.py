"""What is known of the base model before its weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelFacts:
    """``parameters`` counts weights; tied embeddings once."""

    model_type: str
    parameters: int
    supports_sdpa: bool
    max_positions: int | None  # longest sequence the position embeddings cover
    not_packable: str | None = None  # why several sequences cannot lie in one row; None where they can
    learned_positions: bool = False  # a position beyond them is an error, not only new to the model
