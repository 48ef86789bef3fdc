"""Model facts, from the configuration alone: parameter counts, attention support, longest sequence, packing support.

They need the model's class, whose import takes seconds, so they are cached. Facts of models whose code is not in transformers
are not: that code may change.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.json_cache import code_digest, read_cached, write_cached
from orpo_cli.json_files import read_json_object_or_empty
from orpo_cli.library_imports import import_libraries
from orpo_cli.model import packing_support, rope_scaling
from orpo_cli.model.known_configs import CONFIGS, known_config
from orpo_cli.model.load_errors import explain_load_errors
from orpo_cli.model.model_files import check_json_files
from orpo_cli.model.model_source import ModelSource
from orpo_cli.planning import model_facts as model_facts_of_plan
from orpo_cli.planning.model_facts import ModelFacts
from orpo_cli.recipe.schema import ModelSection

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

POSITION_TABLE = re.compile(r"\b(?:wpe|embed_positions|position_embeddings?|pos_embed)$")
_KIND = "model-facts"
_STORED = tuple(field.name for field in fields(ModelFacts) if field.name != "read_config")


def model_facts(
    source: ModelSource[ModelSection], max_length: int | None = None, *, dropout_disabled: bool = True
) -> ModelFacts:
    """Facts of the model of ``source``; reads no weights. Raises UsageError, MachineError or HubError.

    ``max_length`` (tokens) and ``dropout_disabled`` are settings of the training, for ``ModelFacts.not_packable``.
    """
    section, settings = source.section, (max_length, dropout_disabled)
    file = None if section.trust_remote_code else source.config_file
    if file is None or "model_type" not in read_json_object_or_empty(file):
        return _facts_from_config(source.config(), section, *settings)
    check_json_files(file.parent)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return _cached_facts(digest, source.config, section, *settings)


def known_facts(
    section: ModelSection, max_length: int | None = None, *, dropout_disabled: bool = True
) -> ModelFacts | None:
    """Facts of a model whose configuration is in this package, if the hub cannot be reached; None for other models."""
    name = section.model_name_or_path
    if name not in CONFIGS:
        return None

    def read_config() -> PreTrainedConfig:
        config = known_config(name)
        assert config is not None
        return rope_scaling.apply_rope_scaling(config, section)

    return _cached_facts(CONFIGS[name], read_config, section, max_length, dropout_disabled)


def _cached_facts(
    config_key: object,
    read_config: Callable[[], PreTrainedConfig],
    section: ModelSection,
    max_length: int | None,
    dropout_disabled: bool,
) -> ModelFacts:
    """Facts from the cache, or of the configuration. ``config_key``: its content, or the digest of it."""
    scaling = None if section.rope_scaling is None else section.rope_scaling.model_dump()
    key = [config_key, scaling, max_length, dropout_disabled, _code()]
    found = read_cached(_KIND, key)
    if isinstance(found, dict) and found.keys() == set(_STORED):
        found["linear_layers"] = tuple((name, out, into) for name, out, into in found["linear_layers"])
        return ModelFacts(**found, read_config=lambda: read_config().get_text_config())
    import_libraries("transformers.modeling_utils")
    facts = _facts_from_config(read_config(), section, max_length, dropout_disabled)
    if facts.config_values is not None:
        write_cached(_KIND, key, {name: getattr(facts, name) for name in _STORED})
    return facts


@cache
def _code() -> str:
    """Digest of the code that decides the facts: this package's, and the versions of the libraries."""
    modules = (__file__, packing_support.__file__, rope_scaling.__file__, model_facts_of_plan.__file__)
    return code_digest(("torch", "transformers"), map(Path, modules))


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
        max_position_embeddings=rope_scaling.longest_sequence(text_config),
        not_packable=packing_support.packing_obstacle(model, max_length, dropout_disabled=dropout_disabled),
        learned_positions=has_position_table(model),
        num_hidden_layers=text_config.num_hidden_layers,
        hidden_size=text_config.hidden_size,
        intermediate_size=_intermediate(text_config),
        vocab_size=text_config.vocab_size,
        active_parameters=_count_active_parameters(model, text_config),
        linear_layers=tuple(linear_layers(model)),
        ties_embeddings=bool(getattr(text_config, "tie_word_embeddings", False)),
        config_values=_config_values(text_config),
        read_config=lambda: text_config,
    )


def _config_values(config: PreTrainedConfig) -> Mapping[str, Any] | None:
    """The values of a configuration, JSON-ready and without the place of the model; None where its code is not in transformers."""
    if not type(config).__module__.startswith("transformers."):
        return None
    values = config.to_dict()
    values.pop("_name_or_path", None)
    found: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return found


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
