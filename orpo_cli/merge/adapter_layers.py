"""Where an adapter changes its base, and what it makes of the weights there: one place at a time, by PEFT's own arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import RunError, UsageError
from orpo_cli.merge.base_checkpoint import UnsupportedCheckpoint
from orpo_cli.merge.meta_model import is_placeholder
from orpo_cli.merge.peft_adapters import BASE_PRESERVING_INITS

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

PEFT_NAME_PARTS = (
    ".base_layer",
    ".original_module",
    ".token_adapter",
)  # what PEFT puts into the names of the base's parameters

PROBE_COUNT = 4  # inputs that a merged layer is compared on
MAX_OUTPUT_DIFFERENCE = 1e-4  # of the largest output; float32 sums of 14336 products differ by about 1e-6


@dataclass
class AdaptedLayer:
    """A layer with an adapter. ``parameters``: names in the model, by the name that its base layer has for them."""

    parameters: dict[str, str]
    layer: Any
    adapters: Sequence[str]
    init_lora_weights: dict[str, Any] = field(default_factory=dict)  # init_lora_weights of each adapter

    def merge(self, values: dict[str, Tensor], base_dtype: Any) -> tuple[dict[str, Tensor], float]:
        """Merge into ``values`` (by name in the model, float32, used up).

        ``trained_in``: the type that training held the base in. Gives the new values, and how far the merged layer is from
        base and adapter side by side, relative to its largest output. Raises RunError where the result is not finite.
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
                self.layer.merge(safe_merge=False, adapter_names=list(self.adapters))
                merged = {name: base._parameters[each].data for each, name in self.parameters.items()}
                for name, tensor in merged.items():
                    if not all(bool(torch.isfinite(end)) for end in torch.aminmax(tensor)):
                        raise RunError(
                            f"the merged {name} is not finite (NaN or infinity).",
                            remedy="The adapter is broken: train again.",
                        )
                apart = 0.0 if expected is None else _relative_difference(expected, base(probes))
        finally:
            base._parameters.update(before)
            self.layer.merged_adapters.clear()
            getattr(self.layer, "_caches", {}).clear()
        return merged, apart

    def _initialize_base(self, adapter: str, trained_in: Any) -> None:
        """What PEFT does to the base when it puts the adapter on: PiSSA and OLoRA take their start out of it."""
        start = self.init_lora_weights.get(adapter, True)
        if start in BASE_PRESERVING_INITS:
            return
        base, down, up = (
            self.layer.get_base_layer(),
            self.layer.lora_A[adapter].weight,
            self.layer.lora_B[adapter].weight,
        )
        trained = down.data, up.data
        base.weight.data = base.weight.data.to(trained_in)
        if start == "pissa":
            self.layer.pissa_init(adapter, start)
        else:
            self.layer.olora_init(adapter)
        base.weight.data = base.weight.data.float()
        self.layer.lora_A[adapter].weight.data, self.layer.lora_B[adapter].weight.data = trained

    def _probe_inputs(self, base: Any) -> Tensor | None:
        """Inputs for the layer where it is of a kind that takes one: random vectors, or tokens from first to last."""
        import torch
        from transformers.pytorch_utils import Conv1D

        if isinstance(base, torch.nn.Embedding):
            return torch.linspace(0, base.weight.shape[0] - 1, 64).long()[None]
        if isinstance(base, torch.nn.Linear | Conv1D) and not hasattr(self.layer, "parameter_name"):
            width = base.weight.shape[1 if isinstance(base, torch.nn.Linear) else 0]
            return torch.randn(PROBE_COUNT, width, generator=torch.Generator().manual_seed(0))
        return None


def _relative_difference(expected: Tensor, found: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


@dataclass
class AdaptedLayers:
    """Everything that adapters change.

    ``given``: parameters that an adapter holds in full; ``shared``: those that what is tied to them takes over.
    """

    layers: list[AdaptedLayer] = field(default_factory=list)
    full_weights: dict[str, Tensor] = field(default_factory=dict)
    applied_to_tied: set[str] = field(default_factory=set)
    saved_as_tied: set[str] = field(default_factory=set)  # saved in full, but as what they are tied to

    def layers_of(self, parameter: str) -> list[AdaptedLayer]:
        """The sites that change a parameter."""
        return [site for site in self.layers if parameter in site.parameters.values()]

    def changes(self, parameter: str) -> bool:
        """Whether an adapter changes a parameter."""
        return parameter in self.full_weights or bool(self.layers_of(parameter))


def find_adapted_layers(
    peft_model: PeftModel, init_lora_weights: dict[str, Any], base_parameters: set[str]
) -> AdaptedLayers:
    """The places of adapters on a base without weights, whose parameters are ``known``.

    ``starts``: the init_lora_weights of each adapter. Raises UsageError for what no weights can hold, and
    NotUnderstood where PEFT does something that is new here.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper, ModulesToSaveWrapper, TrainableTokensWrapper

    model = peft_model.get_base_model()
    found = AdaptedLayers()
    inside: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{each}.") for each in inside):
            continue
        if isinstance(module, ModulesToSaveWrapper):
            _add_modules_to_save(found, name, module)
        elif isinstance(module, TrainableTokensWrapper):
            found.layers.append(
                AdaptedLayer({"weight": f"{name}.weight"}, module.token_adapter, list(init_lora_weights))
            )
        elif isinstance(module, BaseTunerLayer):
            found.layers.extend(_layers_of_module(name, module, init_lora_weights))
        elif isinstance(module, AuxiliaryTrainingWrapper):
            raise UnsupportedCheckpoint(f"{name} is a {type(module).__name__} of PEFT")
        else:
            continue
        inside.append(name)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        plain = name
        for part in PEFT_NAME_PARTS:
            plain = plain.replace(part, "")
        if plain in base_parameters and not is_placeholder(parameter) and "modules_to_save" not in name:
            found.full_weights[plain] = parameter.data
            found.applied_to_tied.add(plain)
    used = {name for site in found.layers for name in site.parameters.values()} | set(found.full_weights)
    if not used <= base_parameters:
        raise UnsupportedCheckpoint(f"{sorted(used - base_parameters)[0]} is no weight of the base")
    return found


def _add_modules_to_save(found: AdaptedLayers, name: str, module: Any) -> None:
    """Parameters of a layer that the adapter holds in full (modules_to_save)."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not module.active_adapters:
        return
    own = module.modules_to_save[module.active_adapters[0]]
    if any(isinstance(each, BaseTunerLayer) for each in own.modules()):
        raise UnsupportedCheckpoint(f"{name} is saved in full and has an adapter, too")
    for each, parameter in own.named_parameters():
        if is_placeholder(parameter):
            found.saved_as_tied.add(f"{name}.{each}")
        else:
            found.full_weights[f"{name}.{each}"] = parameter.data


def _layers_of_module(name: str, layer: Any, starts: dict[str, Any]) -> list[AdaptedLayer]:
    """One site a parameter that PEFT targets by its own name (experts), else one for the layer."""
    if hasattr(layer, "parameter_name"):
        found = []
        while hasattr(layer, "parameter_name"):
            found.append(AdaptedLayer({layer.parameter_name: f"{name}.{layer.parameter_name}"}, layer, list(starts)))
            if set(starts.values()) - set(BASE_PRESERVING_INITS):
                raise UnsupportedCheckpoint(f"{name} has experts that begin with {starts}")
            layer = layer.base_layer
        return found
    base = layer.get_base_layer()
    needed = ["weight", *(["bias"] if any(getattr(layer, "lora_bias", {}).values()) else [])]
    if "bias" in needed and base._parameters.get("bias") is None:
        raise UsageError(
            f"the adapter has a bias (lora_bias) for {name}, and the base has none there to merge it into.",
            remedy="Train without lora_bias, or use the adapter unmerged.",
        )
    if any(base._parameters.get(each) is None for each in needed) or not hasattr(layer, "merged_adapters"):
        raise UnsupportedCheckpoint(f"{name} is a {type(layer).__name__} of PEFT on a {type(base).__name__}")
    used = [each for each in starts if any(each in getattr(layer, part) for part in layer.adapter_layer_names)]
    return [AdaptedLayer({each: f"{name}.{each}" for each in needed}, layer, used, starts)]
