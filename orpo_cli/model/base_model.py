"""Base model: its loading, quantized by bitsandbytes if the plan says so, and the base in a model with an adapter."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import MachineError, UsageError
from orpo_cli.machine import Device
from orpo_cli.model.device_map import device_map_options, explain_placement_errors, refuse_offloaded
from orpo_cli.model.load_errors import explain_load_errors
from orpo_cli.model.model_files import load_torch_file, pickle_files
from orpo_cli.model.model_source import ModelSource
from orpo_cli.model.vector_math import initialize_vector_math
from orpo_cli.planning.plan import ModelPlan, Plan
from orpo_cli.recipe.schema import QuantizationSection

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel


def load_base(
    source: ModelSource[ModelPlan],
    quantization: QuantizationSection | None,
    device: str,
    note: Callable[[str], None] = warnings.warn,
) -> PreTrainedModel:
    """The base model in eval mode, on ``device`` or spread over several by ``device_map``.

    ``note`` gets a message if the model is stored as a pickle.

    Raises UsageError, MachineError or HubError.
    """
    import torch
    from transformers import AutoModelForCausalLM

    initialize_vector_math()
    section, config = source.section, source.config()
    if config.is_encoder_decoder:
        raise UsageError(
            f"{section.model_name_or_path} is an encoder-decoder model ({config.model_type}).",
            remedy="ORPO here trains decoder-only language models.",
        )
    options: dict[str, Any] = {"config": config}
    if quantization is not None:
        options["quantization_config"] = bitsandbytes_config(quantization)
    if section.device_map is not None:
        options.update(device_map_options(section))
    elif device != "cpu" or quantization is not None:
        options["device_map"] = {"": torch.cuda.current_device() if device == "cuda" else device}
    _check_pickles(source)
    with explain_load_errors(section.model_name_or_path), explain_placement_errors(section):
        try:
            model = AutoModelForCausalLM.from_pretrained(
                source.pretrained_name,
                dtype=getattr(torch, section.dtype),
                attn_implementation=section.attn_implementation,
                **source.hub_options,
                **options,
            )
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise MachineError(
                f"{section.model_name_or_path} does not fit into the memory of {device}.",
                remedy="Load it in 4 bits (quantization.load_in_4bit) or choose a smaller model.",
            ) from error
    if getattr(model, "_hf_peft_config_loaded", False):  # of a hub repository; a local folder was refused before
        raise UsageError(
            f"{section.model_name_or_path} holds a model and an adapter, which transformers applied.",
            remedy="Download the repository, merge it with `orpo merge FOLDER -o DIR`, and give DIR.",
        )
    if pickled := _check_pickles(source):
        note(f"{section.model_name_or_path} is stored as a pickle ({pickled}): loaded without executing it")
    refuse_offloaded(model, section, device)
    if quantization is not None:
        _disable_inference_repacking(model)
        if device == "cpu":
            _copy_mapped_weights(model)
    return model.eval()


def weights_device(plan: Plan) -> Device:
    """The device on which the base of ``plan`` is loaded: with FSDP2 and ZeRO-3 the CPU, since one GPU may not have memory for all.

    Weights that are quantized are quantized on the GPU.
    """
    zero = (
        (plan.launch.deepspeed_config or {}).get("zero_optimization", {}) if plan.launch.strategy == "deepspeed" else {}
    )
    sharded = plan.launch.strategy == "fsdp" or zero.get("stage") == 3
    return "cpu" if sharded and plan.quantization is None else plan.device


def _check_pickles(source: ModelSource[ModelPlan]) -> str | None:
    """Name of a pickle with weights of the model, None where there is none. Raises MachineError unless it has only tensors.

    transformers would initialize weights that it does not find in a pickle, in silence. A model of the hub is checked before
    it is loaded if it is in the cache, and after it was downloaded.
    """
    folder = source.local_folder()
    files = pickle_files(folder) if folder is not None else []
    for file in files:
        load_torch_file(file)
    return files[0].name if files else None


def bitsandbytes_config(section: QuantizationSection) -> BitsAndBytesConfig:
    """transformers' configuration for a section, which has the same names."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(**section.model_dump())


def _copy_mapped_weights(model: PreTrainedModel) -> None:
    """Copy the weights that are not quantized: as views of the mapped files, they would keep the files in memory."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.clone()


def _disable_inference_repacking(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking 4-bit weights at the first forward in eval mode.

    On CPUs with AVX512-BF16, bitsandbytes 0.50.2 repacks them for inference. Every later gradient is then wrong, without an
    error: an evaluation during training would corrupt the rest of it.
    """
    import bitsandbytes as bnb

    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def base_of(model: Any) -> Any:
    """The model itself, or the base of a model with an adapter."""
    return model.get_base_model() if hasattr(model, "peft_config") else model
