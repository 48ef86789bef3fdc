"""The base model, quantized where the plan says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orpo_cli.errors import MachineError, UsageError
from orpo_cli.hub_status import hub_reachable
from orpo_cli.model.device_map import device_map_options, explain_placement_errors, refuse_offloaded
from orpo_cli.model.gguf import convert_gguf_cached
from orpo_cli.model.load_errors import explain_load_errors
from orpo_cli.model.model_source import locate
from orpo_cli.model.rope_scaling import apply_rope_scaling
from orpo_cli.model.vector_math import initialize_vector_math
from orpo_cli.recipe.schema import ModelSection, QuantizationSection

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel


def files_of(section: ModelSection) -> str:
    """What ``from_pretrained`` takes: the hub id, or the folder (for GGUF that of its cached conversion)."""
    location = locate(section.model_name_or_path, section.subfolder)
    if location.kind == "gguf" and location.path is not None:
        return str(convert_gguf_cached(location.path))
    return str(location.path or location.name)


def hub_options(section: ModelSection) -> dict[str, Any]:
    """How ``from_pretrained`` reads what ``files_of`` names: without the network where it is local or the hub is silent."""
    local = locate(section.model_name_or_path, section.subfolder).kind != "hub"
    return {
        "revision": section.model_revision,
        "subfolder": "" if local else section.subfolder,
        "token": section.token,
        "trust_remote_code": section.trust_remote_code,
        "local_files_only": local or not hub_reachable(),
    }


def load_config(section: ModelSection) -> PreTrainedConfig:
    """The model's configuration, with its positions as ``section`` stretches them; downloads no weights.

    Raises UsageError where it cannot be stretched.
    """
    from transformers import AutoConfig

    with explain_load_errors(section.model_name_or_path):
        config = AutoConfig.from_pretrained(files_of(section), **hub_options(section))
    return apply_rope_scaling(config, section)


def load_base(section: ModelSection, quantization: QuantizationSection | None, device: str) -> PreTrainedModel:
    """The base model on ``device``, or spread as ``section.device_map`` says, in eval mode.

    ``section`` has no ``auto`` left, as in a plan. Raises UsageError, MachineError or HubError.
    """
    import torch
    from transformers import AutoModelForCausalLM

    initialize_vector_math()
    config = load_config(section)
    if config.is_encoder_decoder:
        raise UsageError(
            f"{section.model_name_or_path} is an encoder-decoder model ({config.model_type}).",
            remedy="ORPO here trains decoder-only language models.",
        )
    options: dict[str, Any] = {}
    if quantization is not None:
        options["quantization_config"] = bitsandbytes_config(quantization)
    if section.rope_scaling is not None:
        options["config"] = config
    if section.device_map is not None:
        options.update(device_map_options(section))
    elif device != "cpu" or quantization is not None:
        options["device_map"] = {"": 0 if device == "cuda" else device}
    with explain_load_errors(section.model_name_or_path), explain_placement_errors(section):
        try:
            model = AutoModelForCausalLM.from_pretrained(
                files_of(section),
                dtype=getattr(torch, section.dtype),
                attn_implementation=section.attn_implementation,
                **hub_options(section),
                **options,
            )
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise MachineError(
                f"{section.model_name_or_path} does not fit into the memory of {device}.",
                remedy="Load it in 4 bits (quantization.load_in_4bit) or choose a smaller model.",
            ) from error
    refuse_offloaded(model, section, device)
    if quantization is not None:
        _disable_inference_repacking(model)
        if device == "cpu":
            _copy_mapped_weights(model)
    model.eval()
    return model


def bitsandbytes_config(section: QuantizationSection) -> BitsAndBytesConfig:
    """transformers' own configuration from ours; the names are the same."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(**section.model_dump())


def _copy_mapped_weights(model: PreTrainedModel) -> None:
    """Copy the weights that are not quantized: they are parts of the mapped files, which would stay in memory as a whole."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.clone()


def _disable_inference_repacking(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking 4-bit weights at the first forward in eval mode.

    On CPUs with AVX512-BF16, bitsandbytes 0.50.2 repacks them for inference, and every gradient after it is wrong
    without an error: an evaluation in the middle of training corrupts the rest.
    """
    import bitsandbytes as bnb

    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
