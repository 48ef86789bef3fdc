"""PEFT adapters: loading them on their base, with the checks that PEFT leaves to its users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import UsageError
from orpo_cli.json_files import read_json_object_or_empty
from orpo_cli.model.model_files import check_json_files, damaged_file_error

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel

# Values of init_lora_weights that do not change the base, and those whose change can be recomputed from the base.
BASE_PRESERVING_INITS = (True, False, "gaussian", "orthogonal", "eva", "mica")
RECOMPUTABLE_INITS = ("pissa", "olora")


@dataclass(frozen=True)
class Adapter:
    """A PEFT adapter in a folder, and the factor for its update. ``standard_folder``: a copy with PEFT's names, if needed."""

    folder: Path
    weight: float = 1.0
    standard_folder: Path | None = None

    @property
    def peft_folder(self) -> Path:
        """The folder that PEFT can read."""
        return self.standard_folder or self.folder

    @property
    def config(self) -> PeftConfig:
        """Its adapter_config.json. Raises MachineError if the file is damaged, UsageError if PEFT cannot read it."""
        from peft import PeftConfig

        check_json_files(self.folder)
        try:
            return PeftConfig.from_pretrained(str(self.peft_folder))
        except (ValueError, KeyError, TypeError, OSError, ImportError) as error:
            raise UsageError(f"{self.folder}: its adapter_config.json cannot be read: {error}") from error

    @property
    def init_lora_weights(self) -> Any:
        """Its init_lora_weights, read from the file: for some values PEFT needs a further package to read the config."""
        return read_json_object_or_empty(self.peft_folder / "adapter_config.json").get("init_lora_weights", True)


def load_adapters(base: PreTrainedModel, adapters: Sequence[Adapter], *, on_meta_model: bool = False) -> PeftModel:
    """Load the adapters on ``base``, in eval mode and numbered. ``on_meta_model``: the base has no weights.

    PEFT gives at most a warning for an adapter of another model and ignores weights that it does not need. This function
    raises UsageError unless each weight of the adapter has a parameter and each parameter a weight.
    """
    from peft import PeftModel

    model: PeftModel | None = None
    for name, adapter in zip(adapter_names(adapters), adapters, strict=True):
        config = adapter.config
        if on_meta_model:
            config.init_lora_weights = True  # pissa and olora need the base's weights: AdaptedLayer.merge applies them
        options: dict[str, Any] = {"adapter_name": name, "low_cpu_mem_usage": on_meta_model}
        damaged = damaged_file_error(adapter.peft_folder)
        if damaged is not None:
            raise damaged
        try:
            if model is None:
                model = PeftModel.from_pretrained(base, str(adapter.peft_folder), config=config, **options)
            else:
                model.load_adapter(str(adapter.peft_folder), peft_config=config, **options)
        except KeyError as error:  # the name of a layer that the adapter should contain
            expected = str(error.args[0] if error.args else error)
            raise _does_not_fit(adapter, base, _stored_names(adapter), {expected}) from error
        except (RuntimeError, ValueError, TypeError) as error:
            first = str(error).strip().splitlines()
            raise UsageError(
                f"{adapter.folder} does not fit {base.config.name_or_path}: {' '.join(line.strip() for line in first[:2])}",
                remedy="Give the base that the adapter was trained on with --base.",
            ) from error
        _check_all_weights_loaded(model, name, adapter, base)
    assert model is not None, "there is an adapter"
    _apply_adapter_weights(model, adapters)
    model.eval()
    return model


def adapter_names(adapters: Sequence[Adapter]) -> list[str]:
    """Names of the adapters in PEFT."""
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


def _check_all_weights_loaded(model: PeftModel, name: str, adapter: Adapter, base: PreTrainedModel) -> None:
    from peft import get_peft_model_state_dict

    stored = _stored_names(adapter)
    wanted = set(get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False))
    missing, unexpected = wanted - stored, stored - wanted - set(model.state_dict())
    if missing or unexpected:
        raise _does_not_fit(adapter, base, unexpected, missing)


def _stored_names(adapter: Adapter) -> set[str]:
    from peft import load_peft_weights

    return set(load_peft_weights(str(adapter.peft_folder), device="cpu"))


def _does_not_fit(adapter: Adapter, base: PreTrainedModel, unexpected: set[str], missing: set[str]) -> UsageError:
    """The error for weights without a parameter (``unexpected``) and parameters without a weight, with one name of each."""
    found = f"{len(unexpected)} of its weights have no parameter there" if unexpected else ""
    expected = f"{len(missing)} of its weights are missing" if missing else ""
    names = [f"found: {min(unexpected)}"] if unexpected else []
    names += [f"expected: {min(missing)}"] if missing else []
    return UsageError(
        f"{adapter.folder} does not fit {base.config.name_or_path}: {', and '.join(filter(None, (found, expected)))}; "
        f"{', '.join(names)}.",
        remedy="If the layers are the same, rename the weights in its file; else give the base that it was trained on with --base."
        if unexpected
        else "Its file is incomplete: save or download the adapter again.",
    )


def check_mergeable(adapters: Sequence[Adapter], *, quantized: bool) -> None:
    """Raise UsageError for adapters without weights to merge, and for those whose merge would give another model."""
    for adapter in adapters:
        init = adapter.init_lora_weights
        if init not in (*BASE_PRESERVING_INITS, *RECOMPUTABLE_INITS):
            raise UsageError(
                f"{adapter.folder} was trained with init_lora_weights={init!r}, which changed the base in a way that cannot be "
                "recomputed from the base.",
                remedy="Save it with path_initial_model_for_weight_conversion on the machine that trained it, which converts "
                "it to a plain LoRA adapter. Next time, train with pissa.",
            )
        config = adapter.config
        kind = getattr(config.peft_type, "value", config.peft_type)
        if config.is_prompt_learning or config.is_adaption_prompt:
            raise UsageError(
                f"{adapter.folder} is an adapter of the kind {kind}: it adds inputs to layers and has no weights to merge.",
                remedy="Use it through peft.",
            )
        if getattr(config, "alora_invocation_tokens", None):
            raise UsageError(
                f"{adapter.folder} is an activated LoRA (alora_invocation_tokens): it changes only the tokens after the invocation.",
                remedy="Use it through peft.",
            )
        if getattr(config, "layer_replication", None):
            raise UsageError(
                f"{adapter.folder} repeats layers (lora.layer_replication): several layers would share one merged weight.",
                remedy="Use the adapter unmerged.",
            )
        if init in RECOMPUTABLE_INITS and quantized:
            raise UsageError(
                f"{adapter.folder} was trained with init_lora_weights={init} on a quantized base, and the base that it changed "
                "was not saved.",
                remedy="Train without quantization, or with another init_lora_weights.",
            )
    if len(adapters) > 1 or adapters[0].weight != 1:
        for adapter in adapters:
            _check_combinable(adapter)


def _check_combinable(adapter: Adapter) -> None:
    """Raise UsageError unless the update of the adapter is a sum to the base, which can be weighted and added to others."""
    config = adapter.config
    reasons = {
        f"is a {getattr(config.peft_type, 'value', config.peft_type)} adapter": config.peft_type != "LORA",
        "has trained magnitudes (DoRA)": getattr(config, "use_dora", False),
        "has trained biases": getattr(config, "bias", "none") != "none",
        "has layers saved in full (modules_to_save)": bool(getattr(config, "modules_to_save", None)),
        "has trained embeddings (trainable_token_indices)": bool(getattr(config, "trainable_token_indices", None)),
        "changed the base when it was created": getattr(config, "init_lora_weights", True) in RECOMPUTABLE_INITS,
    }
    reason = next((each for each, applies in reasons.items() if applies), None)
    if reason is not None:
        raise UsageError(
            f"{adapter.folder} {reason}: such an adapter cannot be weighted or added to others.",
            remedy="Merge it separately, without --weight.",
        )


def set_compute_dtype(model: PeftModel, dtype: str) -> None:
    """Make a quantized model compute in ``dtype`` with its quantized weights, for an exact comparison.

    By default it computes in bfloat16 (relative difference of logits 0.09 on SmolLM2-135M), and 8-bit layers also quantize
    activations (0.24), which they do not do in training on a CPU.
    """
    import bitsandbytes as bnb
    import torch

    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.compute_dtype = getattr(torch, dtype)
            module.compute_type_is_set = True
            # dtype of the dequantized weights: in bfloat16, updates smaller than a rounding step would be lost
            module.weight.quant_state.dtype = getattr(torch, dtype)
        elif isinstance(module, bnb.nn.Linear8bitLt):
            module.train()
    for parameter in model.parameters():
        if parameter.is_floating_point() and not isinstance(parameter, bnb.nn.Params4bit | bnb.nn.Int8Params):
            parameter.data = parameter.data.to(getattr(torch, dtype))


def computes_exactly(model: PreTrainedModel) -> bool:
    """Whether the model computes exactly after set_compute_dtype: 8-bit layers on a GPU still quantize activations."""
    import bitsandbytes as bnb

    return model.device.type == "cpu" or not any(isinstance(each, bnb.nn.Linear8bitLt) for each in model.modules())


def dequantize(model: PreTrainedModel, name: str, dtype: str) -> PreTrainedModel:
    """``model`` with its quantized layers replaced by linear layers in ``dtype`` with the dequantized weights."""
    import torch

    try:
        return model.dequantize(dtype=getattr(torch, dtype))
    except NotImplementedError as error:
        raise UsageError(
            f"{name} is quantized in a way that transformers cannot undo: {error}",
            remedy="Give the unquantized model with --base.",
        ) from error
