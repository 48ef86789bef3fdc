"""Adapters on their base, with the checks that PEFT leaves to its users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import MachineError, UsageError
from orpo_cli.json_files import read_json_object_or_empty

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel

# Beginnings (init_lora_weights) that leave the base as it is, and those that can be had again from the base alone.
BASE_PRESERVING_INITS = (True, False, "gaussian", "orthogonal", "eva", "mica")
RECOMPUTABLE_INITS = ("pissa", "olora")


@dataclass(frozen=True)
class Adapter:
    """A PEFT adapter in a folder, and the weight that its update gets."""

    folder: Path
    weight: float = 1.0

    @property
    def config(self) -> PeftConfig:
        """Its adapter_config.json. Raises UsageError where it cannot be read."""
        from peft import PeftConfig

        try:
            return PeftConfig.from_pretrained(str(self.folder))
        except (ValueError, KeyError, TypeError, OSError, ImportError) as error:
            raise UsageError(f"{self.folder}: its adapter_config.json cannot be read: {error}") from error

    @property
    def init_lora_weights(self) -> Any:
        """Its init_lora_weights; PEFT reads some of them only where a further package is installed."""
        return read_json_object_or_empty(self.folder / "adapter_config.json").get("init_lora_weights", True)


def load_adapters(base: PreTrainedModel, adapters: Sequence[Adapter], *, on_meta_model: bool = False) -> PeftModel:
    """The adapters on ``base``, in eval mode, named by their number. ``hollow``: on a base without weights.

    PEFT loads an adapter that was made for another model with a warning at most, and what found no place does nothing:
    UsageError is raised where not every weight finds its place.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    model: PeftModel | None = None
    for name, adapter in zip(adapter_names(adapters), adapters, strict=True):
        config = adapter.config
        if on_meta_model:
            config.init_lora_weights = (
                True  # what PEFT takes out of the base at the start is for when there are weights
            )
        options: dict[str, Any] = {"adapter_name": name, "low_cpu_mem_usage": on_meta_model}
        try:
            if model is None:
                model = PeftModel.from_pretrained(base, str(adapter.folder), config=config, **options)
            else:
                model.load_adapter(str(adapter.folder), peft_config=config, **options)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            first = str(error).strip().splitlines()
            raise UsageError(
                f"{adapter.folder} does not fit {base.config.name_or_path}: {' '.join(line.strip() for line in first[:2])}",
                remedy="Give the base that the adapter was trained on with --base.",
            ) from error
        except SafetensorError as error:
            raise MachineError(
                f"{adapter.folder} cannot be read: {error}", remedy="Download or save it again."
            ) from error
        _check_all_weights_loaded(model, name, adapter.folder, base)
    assert model is not None, "there is an adapter"
    _apply_adapter_weights(model, adapters)
    model.eval()
    return model


def adapter_names(adapters: Sequence[Adapter]) -> list[str]:
    """What PEFT knows the adapters by."""
    return ["default", *(f"adapter_{number}" for number in range(1, len(adapters)))]


def _apply_adapter_weights(model: PeftModel, adapters: Sequence[Adapter]) -> None:
    """Activate all adapters, each with its weight."""
    from peft.tuners.lora import LoraLayer

    names = adapter_names(adapters)
    if len(names) > 1:
        model.base_model.set_adapter(names)
    for name, adapter in zip(names, adapters, strict=True):
        if adapter.weight == 1:
            continue
        for module in model.modules():
            if isinstance(module, LoraLayer) and name in module.scaling:
                module.scaling[name] *= adapter.weight


def _check_all_weights_loaded(model: PeftModel, name: str, adapter: Path, base: PreTrainedModel) -> None:
    from peft import get_peft_model_state_dict, load_peft_weights

    stored = set(load_peft_weights(str(adapter), device="cpu"))
    wanted = set(get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False))
    missing, without_place = sorted(wanted - stored), sorted(stored - wanted - set(model.state_dict()))
    if missing or without_place:
        example = (missing or without_place)[0]
        raise UsageError(
            f"{adapter} does not fit {base.config.name_or_path}: {len(without_place)} of its weights have no place "
            f"there, {len(missing)} are missing (such as {example}).",
            remedy="Give the base that the adapter was trained on with --base.",
        )


def check_mergeable(adapters: Sequence[Adapter], *, quantized: bool) -> None:
    """Raise UsageError for adapters without weights to merge, and for those that would merge into something else."""
    for adapter in adapters:
        start = adapter.init_lora_weights
        if start not in (*BASE_PRESERVING_INITS, *RECOMPUTABLE_INITS):
            raise UsageError(
                f"{adapter.folder} began with init_lora_weights={start!r}, which changed the base in a way that cannot be had "
                "again from the base alone.",
                remedy="Save it with path_initial_model_for_weight_conversion where it was trained: that makes it a plain "
                "LoRA adapter. Next time, train with pissa.",
            )
        config = adapter.config
        if config.is_prompt_learning:
            raise UsageError(
                f"{adapter.folder} is a {config.peft_type} adapter: it adds to the input and has no weights to merge.",
                remedy="Use it through peft.",
            )
        if getattr(config, "layer_replication", None):
            raise UsageError(
                f"{adapter.folder} has layers that are repeated (lora.layer_replication): several would share one merged weight.",
                remedy="Use the adapter unmerged.",
            )
        if start in RECOMPUTABLE_INITS and quantized:
            raise UsageError(
                f"{adapter.folder} began with {start} on a quantized base: what that left of the base is lost.",
                remedy="Train without quantization, or with another init_lora_weights.",
            )
    if len(adapters) > 1 or adapters[0].weight != 1:
        for adapter in adapters:
            _check_combinable(adapter)


def _check_combinable(adapter: Adapter) -> None:
    """Only updates that are added to the base can be added to each other."""
    config = adapter.config
    reasons = {
        f"is a {getattr(config.peft_type, 'value', config.peft_type)} adapter": config.peft_type != "LORA",
        "has magnitudes of its own (DoRA)": getattr(config, "use_dora", False),
        "holds biases": getattr(config, "bias", "none") != "none",
        "holds whole layers (modules_to_save)": bool(getattr(config, "modules_to_save", None)),
        "holds whole embeddings (trainable_token_indices)": bool(getattr(config, "trainable_token_indices", None)),
        "changed the base at its start": getattr(config, "init_lora_weights", True) in RECOMPUTABLE_INITS,
    }
    reason = next((each for each, applies in reasons.items() if applies), None)
    if reason is not None:
        raise UsageError(
            f"{adapter.folder} {reason}: such an adapter cannot be weighted or added to others.",
            remedy="Merge it alone, without --weight.",
        )


def set_compute_dtype(model: PeftModel, dtype: str) -> None:
    """Make a quantized model compute in ``dtype`` with the weights that it has, so that it can be compared closely.

    As it is, it computes in bfloat16 (off by 0.09 of the logits' spread on SmolLM2-135M), and in 8 bits it quantizes the
    activations too (0.24); in training on a CPU, bitsandbytes does not.
    """
    import bitsandbytes as bnb
    import torch

    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.compute_dtype = getattr(torch, dtype)
            module.compute_type_is_set = True
            # what it is dequantized to: rounded to bfloat16 before the merge, updates smaller than a rounding step are lost
            module.weight.quant_state.dtype = getattr(torch, dtype)
        elif isinstance(module, bnb.nn.Linear8bitLt):
            module.train()
    for parameter in model.parameters():
        if parameter.is_floating_point() and not isinstance(parameter, bnb.nn.Params4bit | bnb.nn.Int8Params):
            parameter.data = parameter.data.to(getattr(torch, dtype))


def computes_exactly(model: PreTrainedModel) -> bool:
    """Whether ``widen`` could make the model compute with its weights alone: in 8 bits on a GPU it cannot."""
    import bitsandbytes as bnb

    return model.device.type == "cpu" or not any(isinstance(each, bnb.nn.Linear8bitLt) for each in model.modules())


def dequantize(model: PreTrainedModel, name: str, dtype: str) -> PreTrainedModel:
    """``model`` with ordinary linear layers in ``dtype`` that hold what its quantized ones stood for."""
    import torch

    try:
        return model.dequantize(dtype=getattr(torch, dtype))
    except NotImplementedError as error:
        raise UsageError(
            f"{name} is quantized in a way that transformers cannot undo: {error}",
            remedy="Give the unquantized model with --base.",
        ) from error
