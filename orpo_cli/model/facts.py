"""Facts about a model from its configuration alone."""

from __future__ import annotations

from orpo_cli.model.base import load_config
from orpo_cli.model.loading import explained
from orpo_cli.plan.facts import ModelFacts
from orpo_cli.recipe.schema import ModelSection


def model_facts(section: ModelSection) -> ModelFacts:
    """Read the configuration (no weights) and count. Imports transformers; raises UsageError, MachineError, HubError."""
    import torch
    from transformers import AutoModelForCausalLM

    config = load_config(section)
    text_config = config.get_text_config()
    with explained(section.model_name_or_path), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=section.trust_remote_code)
    positions = getattr(text_config, "max_position_embeddings", None)
    return ModelFacts(
        model_type=str(config.model_type),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        supports_sdpa=bool(getattr(model, "_supports_sdpa", False)),
        max_positions=positions if isinstance(positions, int) else None,
    )
