"""What is known of the base model before its weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModelFacts:
    """``parameters`` counts weights; tied embeddings once. Widths are 0 where nothing was counted."""

    model_type: str
    parameters: int
    supports_sdpa: bool
    max_position_embeddings: int | None  # longest sequence the position embeddings cover
    not_packable: str | None = None  # why several sequences cannot lie in one row; None where they can
    learned_positions: bool = False  # a position beyond them is an error, not only new to the model
    num_hidden_layers: int = 0
    hidden_size: int = 0  # width of a hidden state
    intermediate_size: int = 0  # width inside a layer's MLP
    vocab_size: int = 0  # of the vocabulary
    active_parameters: int = 0  # parameters that a token is multiplied with, of a mixture of experts fewer than all
    linear_layers: tuple[tuple[str, int, int], ...] = ()  # linear layers but the head: name, outputs, inputs
    config: Any = field(default=None, compare=False, repr=False)  # transformers' configuration of the text model
