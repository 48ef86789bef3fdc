"""Facts about the base model that the plan needs before any weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


def _no_config() -> Any:
    raise ValueError("these facts are of no configuration")


@dataclass(frozen=True)
class ModelFacts:
    """Facts from the configuration. ``parameters`` counts tied embeddings once; sizes are 0 where nothing was counted."""

    model_type: str
    parameters: int
    supports_sdpa: bool
    max_position_embeddings: int | None  # longest sequence that the position embeddings cover
    not_packable: str | None = None  # why a row cannot hold several sequences; None where it can
    learned_positions: bool = False  # a longer sequence is an error, not only untrained
    num_hidden_layers: int = 0
    hidden_size: int = 0
    intermediate_size: int = 0  # of a layer's MLP
    vocab_size: int = 0
    active_parameters: int = 0  # used for one token; in a mixture of experts fewer than all
    linear_layers: tuple[tuple[str, int, int], ...] = ()  # without the head: name, outputs, inputs
    ties_embeddings: bool = False  # the head is the embedding table
    # The configuration of the text model, JSON-ready; None where the code of the model is not in transformers.
    config_values: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    read_config: Callable[[], Any] = field(default=_no_config, compare=False, repr=False)

    @property
    def config(self) -> Any:
        """transformers' configuration of the text model. Importing transformers for it takes seconds."""
        return self.read_config()
