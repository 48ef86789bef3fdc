"""Adapted layers: the layers of a model that adapters change, each merged by PEFT's arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import RunError, UsageError
from orpo_cli.merging.base_checkpoint import UnsupportedCheckpoint
from orpo_cli.merging.meta_model import is_placeholder
from orpo_cli.merging.peft_adapters import BASE_PRESERVING_INITS

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

PEFT_NAME_PARTS = (".base_layer", ".original_module", ".token_adapter")  # inserted into the base's parameter names
PROBE_COUNT = 4  # inputs on which a merged layer is compared with the unmerged one
MAX_OUTPUT_DIFFERENCE = 1e-4  # relative to the largest output; float32 sums of 14336 products differ by about 1e-6


@dataclass
class AdaptedLayer:
    """A layer with adapters. ``parameters``: attribute of the base layer to parameter name in the model."""

    parameters: dict[str, str]
    layer: Any
    adapters: Sequence[str]
    init_lora_weights: dict[str, Any] = field(default_factory=dict)  # by adapter name

    def merge(self, values: dict[str, Tensor], base_dtype: Any) -> tuple[dict[str, Tensor], float]:
        """Merge into ``values``: float32 tensors by parameter name, which are removed from the mapping.

        ``base_dtype``: dtype of the base in training. Returns the merged tensors and the largest difference between the
        outputs of the merged and the unmerged layer, relative to its largest output. Raises RunError for NaN or infinity.
        """
        import torch

        base = self.layer.get_base_layer()
        before = {attribute: base._parameters[attribute] for attribute in self.parameters}
        try:
            for attribute, name in self.parameters.items():
                base._parameters[attribute] = torch.nn.Parameter(values.pop(name), requires_grad=False)
            with torch.no_grad():
                for adapter in self.adapters:
                    self._initialize_base(adapter, base_dtype)
                probes = self._probe_inputs(base)
                expected = None if probes is None else self.layer(probes)
                self._merge_by_peft()
                merged = {name: base._parameters[each].data for each, name in self.parameters.items()}
                for name, tensor in merged.items():
                    if not all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor)):
                        raise RunError(
                            f"the merged {name} is not finite (NaN or infinity).",
                            remedy="The adapter is broken: train again.",
                        )
                difference = 0.0 if expected is None else _relative_difference(expected, base(probes))
        finally:
            base._parameters.update(before)
            self.layer.merged_adapters.clear()
            getattr(self.layer, "_caches", {}).clear()
        return merged, difference

    def _merge_by_peft(self) -> None:
        try:
            self.layer.merge(safe_merge=False, adapter_names=list(self.adapters))
        except NotImplementedError as error:
            raise UsageError(
                f"PEFT cannot merge this adapter: {str(error).rstrip('.')}.", remedy="Use it through peft."
            ) from error

    def _initialize_base(self, adapter: str, base_dtype: Any) -> None:
        """Change the base as PEFT did when training added the adapter: PiSSA and OLoRA subtract their initial weights."""
        init = self.init_lora_weights.get(adapter, True)
        if init in BASE_PRESERVING_INITS:
            return
        base = self.layer.get_base_layer()
        lora_a, lora_b = self.layer.lora_A[adapter].weight, self.layer.lora_B[adapter].weight
        trained = lora_a.data, lora_b.data
        base.weight.data = base.weight.data.to(base_dtype)
        if init == "pissa":
            self.layer.pissa_init(adapter, init)
        else:
            self.layer.olora_init(adapter)
        base.weight.data = base.weight.data.float()
        self.layer.lora_A[adapter].weight.data, self.layer.lora_B[adapter].weight.data = trained

    def _probe_inputs(self, base: Any) -> Tensor | None:
        """Inputs to compare outputs on: token ids for an embedding, random vectors for a linear layer, else None."""
        import torch
        from transformers.pytorch_utils import Conv1D

        if isinstance(base, torch.nn.Embedding):
            return torch.linspace(0, base.weight.shape[0] - 1, 64).long()[None]
        if isinstance(base, torch.nn.Linear | Conv1D) and not hasattr(self.layer, "parameter_name"):
            in_features = base.weight.shape[1 if isinstance(base, torch.nn.Linear) else 0]
            return torch.randn(PROBE_COUNT, in_features, generator=torch.Generator().manual_seed(0))
        return None


def _relative_difference(expected: Tensor, found: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


@dataclass
class AdaptedLayers:
    """All changes of the adapters.

    ``full_weights``: parameters that the adapter saved in full, by name. ``applied_to_tied``: those that also replace the
    parameters tied to them. ``saved_as_tied``: parameters in ``modules_to_save`` whose weight is that of their tied parameter.
    """

    layers: list[AdaptedLayer] = field(default_factory=list)
    full_weights: dict[str, Tensor] = field(default_factory=dict)
    applied_to_tied: set[str] = field(default_factory=set)
    saved_as_tied: set[str] = field(default_factory=set)

    def layers_of(self, parameter: str) -> list[AdaptedLayer]:
        """The adapted layers that change a parameter."""
        return [layer for layer in self.layers if parameter in layer.parameters.values()]

    def changes(self, parameter: str) -> bool:
        """Whether an adapter changes a parameter."""
        return parameter in self.full_weights or bool(self.layers_of(parameter))

    def changed_parameters(self) -> set[str]:
        """Names of all parameters that adapters change."""
        return {name for layer in self.layers for name in layer.parameters.values()} | set(self.full_weights)


def find_adapted_layers(
    peft_model: PeftModel, init_lora_weights: dict[str, Any], base_parameters: set[str]
) -> AdaptedLayers:
    """The changes of adapters that are loaded on a meta model.

    ``init_lora_weights``: by adapter name. Raises UsageError for adapters that cannot be merged into weights, and
    UnsupportedCheckpoint for layers that this module does not know.
    """
    from peft.tuners.ln_tuning.layer import LNTuningLayer
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper, ModulesToSaveWrapper, TrainableTokensWrapper

    model = peft_model.get_base_model()
    found = AdaptedLayers()
    wrappers: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{each}.") for each in wrappers):
            continue
        if isinstance(module, ModulesToSaveWrapper):
            _add_modules_to_save(found, name, module)
        elif isinstance(module, TrainableTokensWrapper):
            found.layers.append(
                AdaptedLayer({"weight": f"{name}.weight"}, module.token_adapter, list(init_lora_weights))
            )
        elif isinstance(module, LNTuningLayer):
            for trained in map(module.ln_tuning_layers.__getitem__, module.active_adapters):
                found.full_weights |= {f"{name}.{each}": value.data for each, value in trained.named_parameters()}
        elif isinstance(module, BaseTunerLayer):
            found.layers.extend(_layers_of_module(name, module, init_lora_weights))
        elif isinstance(module, AuxiliaryTrainingWrapper):
            raise UnsupportedCheckpoint(f"{name} is a {type(module).__name__} of PEFT")
        else:
            continue
        wrappers.append(name)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        base_name = name
        for part in PEFT_NAME_PARTS:
            base_name = base_name.replace(part, "")
        if base_name in base_parameters and not is_placeholder(parameter) and "modules_to_save" not in name:
            found.full_weights[base_name] = parameter.data
            found.applied_to_tied.add(base_name)
    if unknown := found.changed_parameters() - base_parameters:
        raise UnsupportedCheckpoint(f"{min(unknown)} is no weight of the base")
    return found


def _add_modules_to_save(found: AdaptedLayers, name: str, module: Any) -> None:
    """Add the parameters of a layer that the adapter saved in full (modules_to_save)."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not module.active_adapters:
        return
    saved = module.modules_to_save[module.active_adapters[0]]
    if any(isinstance(each, BaseTunerLayer) for each in saved.modules()):
        raise UnsupportedCheckpoint(f"{name} is in modules_to_save and has an adapter")
    for each, parameter in saved.named_parameters():
        if is_placeholder(parameter):
            found.saved_as_tied.add(f"{name}.{each}")
        else:
            found.full_weights[f"{name}.{each}"] = parameter.data


def _layers_of_module(name: str, layer: Any, init_lora_weights: dict[str, Any]) -> list[AdaptedLayer]:
    """One adapted layer per parameter that PEFT targets by name (``target_parameters``), else one for the module."""
    if hasattr(layer, "parameter_name"):
        found = []
        while hasattr(layer, "parameter_name"):
            parameters = {layer.parameter_name: f"{name}.{layer.parameter_name}"}
            found.append(AdaptedLayer(parameters, layer, list(init_lora_weights)))
            if set(init_lora_weights.values()) - set(BASE_PRESERVING_INITS):
                raise UnsupportedCheckpoint(f"{name} has experts with init_lora_weights {init_lora_weights}")
            layer = layer.base_layer
        return found
    base = layer.get_base_layer()
    needed = ["weight", *(["bias"] if any(getattr(layer, "lora_bias", {}).values()) else [])]
    if "bias" in needed and base._parameters.get("bias") is None:
        raise UsageError(
            f"the adapter has a bias (lora_bias) for {name}, but the layer of the base has no bias to merge it into.",
            remedy="Train without lora_bias, or use the adapter unmerged.",
        )
    if any(base._parameters.get(each) is None for each in needed) or not hasattr(layer, "merged_adapters"):
        raise UnsupportedCheckpoint(f"{name} is a {type(layer).__name__} of PEFT on a {type(base).__name__}")
    adapters = [
        each for each in init_lora_weights if any(each in getattr(layer, part) for part in layer.adapter_layer_names)
    ]
    return [AdaptedLayer({each: f"{name}.{each}" for each in needed}, layer, adapters, init_lora_weights)]
