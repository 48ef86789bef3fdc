"""Model for the memory trace: the architecture of a configuration with the run's dtypes and adapter, without weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from orpo_cli.estimate.memory import Computation
from orpo_cli.estimate.parameter_counts import adapted_modules
from orpo_cli.model.model_facts import linear_layers
from orpo_cli.training.engine.fused_lora import lora_linear
from orpo_cli.training.engine.packed_attention import attention_configs
from orpo_cli.training.out_of_memory import enable_checkpointing

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from orpo_cli.recipe.schema.lora import LoraSection

LORA_SCALING = 2.0  # any value: it changes no size


def build_traced_model(config: PreTrainedConfig, computation: Computation) -> PreTrainedModel:
    """The model as ``computation`` trains it, on the default device. Call it under ``torch.device("meta")``."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(
        copy.deepcopy(config), attn_implementation="eager", dtype=getattr(torch, computation.dtype)
    )
    for each in attention_configs(model):  # from_config refuses sdpa for models without it; the fast path has its own
        each._attn_implementation = computation.attention
    if computation.embedding_dtype is not None:
        model.get_input_embeddings().to(getattr(torch, computation.embedding_dtype))
    model.train()
    model.requires_grad_(computation.lora is None)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout) and computation.disable_dropout:
            module.p = 0.0
    if computation.upcast_norms:
        for name, module in model.named_modules():
            if "norm" in name:
                module.float()
    if computation.lora is not None:
        _add_adapter(model, computation)
    if computation.checkpointing:
        enable_checkpointing(
            model, **({"every_n_layers": computation.every_n_layers} if computation.every_n_layers > 1 else {})
        )
        if computation.offload:
            _offload_layer_inputs(model)
        if computation.lora is not None:
            model.enable_input_require_grads()
    return model


def _offload_layer_inputs(model: PreTrainedModel) -> None:
    """As transformers does with ``offload``, but the copies in main memory are not made."""
    for module in model.modules():
        if function := module.__dict__.get("_gradient_checkpointing_func"):
            module.__dict__["_gradient_checkpointing_func"] = partial(_checkpoint_offloaded, function)


def _checkpoint_offloaded(checkpoint: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    def to_host(tensor: torch.Tensor) -> tuple[torch.Size, torch.dtype]:
        return tensor.shape, tensor.dtype

    def to_device(saved: tuple[torch.Size, torch.dtype]) -> torch.Tensor:
        shape, dtype = saved
        return torch.empty(shape, dtype=dtype)

    with torch.autograd.graph.saved_tensors_hooks(to_host, to_device):
        return checkpoint(*args, **kwargs)


def _add_adapter(model: PreTrainedModel, computation: Computation) -> None:
    lora = computation.lora
    assert lora is not None
    for name, rank in adapted_modules([name for name, _, _ in linear_layers(model)], lora).items():
        parent, _, child = name.rpartition(".")
        layer = _LoraLinear(model.get_submodule(name), rank, lora, computation)
        setattr(model.get_submodule(parent), child, layer)
    for saved in lora.modules_to_save or ():
        for name, module in model.named_modules():
            if name.rpartition(".")[2] == saved:
                module.requires_grad_(True)


class _LoraLinear(torch.nn.Module):
    """A frozen linear layer with a float32 adapter, computed as the engine does where it can, otherwise as peft does."""

    def __init__(self, base: Any, rank: int, lora: LoraSection, computation: Computation) -> None:
        super().__init__()
        is_linear, dropout = isinstance(base, torch.nn.Linear), lora.lora_dropout
        can_fuse = is_linear and dropout == 0 and not lora.use_dora
        self.fused = computation.fast_path and computation.fused_lora and can_fuse
        self.casts_output = computation.upcast_norms
        out_features, in_features = base.weight.shape if is_linear else base.weight.shape[::-1]
        self.base = base
        self.dropout = torch.nn.Dropout(dropout) if dropout > 0 else torch.nn.Identity()
        self.lora_a = torch.nn.Linear(in_features, rank, bias=False, dtype=torch.float32)
        self.lora_b = torch.nn.Linear(rank, out_features, bias=False, dtype=torch.float32)
        self.magnitude = torch.nn.Parameter(torch.ones(out_features)) if lora.use_dora else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output = self.compute(x)
        return output.to(x.dtype) if self.casts_output else output

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        """As ``fused_lora.forward_in_compute_dtype`` calls it."""
        weight, base = self.base.weight, self.base
        if self.fused and (weight.dtype == self.lora_a.weight.dtype or torch.is_autocast_enabled("cpu")):
            adapter = self.lora_a.weight, self.lora_b.weight  # the engine leaves mixed dtypes without autocast to peft
            return lora_linear(x, weight.dtype, weight, None, base.bias, *adapter, LORA_SCALING)
        output = base(x)
        if self.casts_output:
            output = output.to(x.dtype)
        change = self.lora_b(self.lora_a(self.dropout(x.to(self.lora_a.weight.dtype)))) * LORA_SCALING
        if self.magnitude is not None:
            scale = self.magnitude / torch.ones_like(self.magnitude)
            change = (scale - 1) * output + scale * change
        total: torch.Tensor = output + change
        return total.to(output.dtype)
