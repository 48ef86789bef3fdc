"""Model facts, from the configuration alone: parameter counts, attention support, longest sequence, packing support."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from orpo_cli.model.known_configs import known_config
from orpo_cli.model.load_errors import explain_load_errors
from orpo_cli.model.model_source import ModelSource
from orpo_cli.model.packing_support import packing_obstacle
from orpo_cli.model.rope_scaling import apply_rope_scaling, longest_sequence
from orpo_cli.planning.model_facts import ModelFacts
from orpo_cli.recipe.schema import ModelSection

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

POSITION_TABLE = re.compile(r"\b(?:wpe|embed_positions|position_embeddings?|pos_embed)$")


def model_facts(
    source: ModelSource[ModelSection], max_length: int | None = None, *, dropout_disabled: bool = True
) -> ModelFacts:
    """Facts of the model of ``source``; reads no weights. Raises UsageError, MachineError or HubError.

    ``max_length`` (tokens) and ``dropout_disabled`` are settings of the training, for ``ModelFacts.not_packable``.
    """
    return _facts_from_config(source.config(), source.section, max_length, dropout_disabled)


def known_facts(
    section: ModelSection, max_length: int | None = None, *, dropout_disabled: bool = True
) -> ModelFacts | None:
    """Facts of a model whose configuration is in this package, if the hub cannot be reached; None for other models."""
    config = known_config(section.model_name_or_path)
    if config is None:
        return None
    return _facts_from_config(apply_rope_scaling(config, section), section, max_length, dropout_disabled)


def _facts_from_config(
    config: PreTrainedConfig, section: ModelSection, max_length: int | None, dropout_disabled: bool
) -> ModelFacts:
    import torch
    from transformers import AutoModelForCausalLM

    text_config = config.get_text_config()
    with explain_load_errors(section.model_name_or_path, "config.json"), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=section.trust_remote_code)
    return ModelFacts(
        model_type=str(config.model_type),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        supports_sdpa=bool(getattr(model, "_supports_sdpa", False)),
        max_position_embeddings=longest_sequence(text_config),
        not_packable=packing_obstacle(model, max_length, dropout_disabled=dropout_disabled),
        learned_positions=has_position_table(model),
        num_hidden_layers=text_config.num_hidden_layers,
        hidden_size=text_config.hidden_size,
        intermediate_size=_intermediate(text_config),
        vocab_size=text_config.vocab_size,
        active_parameters=_count_active_parameters(model, text_config),
        linear_layers=tuple(linear_layers(model)),
        config=text_config,
    )


def linear_layers(model: PreTrainedModel) -> Iterator[tuple[str, int, int]]:
    """The linear layers without the head: name, outputs, inputs."""
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if type(module).__name__ in ("Linear", "Conv1D") and module is not head:
            out, into = module.weight.shape
            yield (name, out, into) if type(module).__name__ == "Linear" else (name, into, out)


def _intermediate(config: Any) -> int:
    for name in ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"):
        if isinstance(width := getattr(config, name, None), int):
            return width
    return 4 * int(config.hidden_size)


def _count_active_parameters(model: PreTrainedModel, config: Any) -> int:
    """Parameters used for one token: without the embedding table, and with the chosen experts only."""
    chosen = getattr(config, "num_experts_per_tok", None)
    number = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    fraction = chosen / number if isinstance(chosen, int) and isinstance(number, int) and number else 1.0
    table = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    active = 0.0 if head is None else float(head.weight.numel())
    for name, each in model.named_parameters():
        if each is not table and (head is None or each is not head.weight):
            active += each.numel() * (fraction if ".experts." in name else 1.0)
    return round(active)


def has_position_table(model: PreTrainedModel) -> bool:
    """Whether positions are a table that ends (GPT-2, OPT; in GPT-J a buffer of sines)."""
    from torch.nn import Embedding

    tables = [name for name, module in model.named_modules() if isinstance(module, Embedding)]
    return any(POSITION_TABLE.search(name) for name in (*tables, *dict(model.named_buffers())))
