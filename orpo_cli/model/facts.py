"""Facts about a model from its configuration alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orpo_cli.model.base import load_config
from orpo_cli.model.known import known_config
from orpo_cli.model.loading import explained
from orpo_cli.model.packing import config_positions, why_not_packed
from orpo_cli.plan.facts import ModelFacts
from orpo_cli.recipe.schema import ModelSection

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

POSITION_TABLE = re.compile(r"\b(?:wpe|embed_positions|position_embeddings?|pos_embed)$")


def model_facts(section: ModelSection, max_length: int | None = None, *, dropout_disabled: bool = True) -> ModelFacts:
    """Read the configuration (no weights) and count. Imports transformers; raises UsageError, MachineError, HubError.

    ``max_length`` (tokens) and ``dropout_disabled`` are the training's, for ``ModelFacts.not_packable``.
    """
    return _counted(load_config(section), section, max_length, dropout_disabled)


def known_facts(
    section: ModelSection, max_length: int | None = None, *, dropout_disabled: bool = True
) -> ModelFacts | None:
    """The facts of a model whose configuration orpo-cli knows by heart, for where the hub is silent; None of others."""
    config = known_config(section.model_name_or_path)
    return None if config is None else _counted(config, section, max_length, dropout_disabled)


def _counted(
    config: PreTrainedConfig, section: ModelSection, max_length: int | None, dropout_disabled: bool
) -> ModelFacts:
    import torch
    from transformers import AutoModelForCausalLM

    text_config = config.get_text_config()
    with explained(section.model_name_or_path), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=section.trust_remote_code)
    return ModelFacts(
        model_type=str(config.model_type),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        supports_sdpa=bool(getattr(model, "_supports_sdpa", False)),
        max_positions=config_positions(text_config),
        not_packable=why_not_packed(model, max_length, dropout_disabled=dropout_disabled),
        learned_positions=has_position_table(model),
    )


def has_position_table(model: PreTrainedModel) -> bool:
    """Whether positions are looked up, so that there is none after the last (GPT-2, OPT; GPT-J has a buffer of sines)."""
    from torch.nn import Embedding

    tables = [name for name, module in model.named_modules() if isinstance(module, Embedding)]
    return any(POSITION_TABLE.search(name) for name in (*tables, *(name for name, _ in model.named_buffers())))
