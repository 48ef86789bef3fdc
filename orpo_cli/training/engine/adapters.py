"""Linear layers with a LoRA adapter in fewer passes over memory.

PEFT computes ``base(x) + lora_B(lora_A(x)) * scaling``: the product of the adapter is written, scaled and added, each in a pass
of its own over all outputs, and once more in the backward pass. Here the matrix products add to what is there. Dropout, DoRA,
quantized weights, autocast and several adapters at once stay PEFT's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear


def fusible(model: torch.nn.Module) -> list[LoraLinear]:
    """The layers of ``model`` that ``fused`` can compute."""
    return [module for module in model.modules() if type(module) is LoraLinear and _is_plain(module)]


@contextmanager
def fused(layers: Sequence[LoraLinear]) -> Iterator[None]:
    """Let ``layers`` be computed in fewer passes; for forward and backward, as checkpointed layers run again there."""
    for layer in layers:
        layer.__dict__["forward"] = _Forward(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["forward"]


def _is_plain(layer: Any) -> bool:
    base, names = layer.base_layer, layer.active_adapters
    if len(names) != 1 or layer.disable_adapters or layer.merged or names[0] in layer.lora_variant:
        return False
    (name,) = names
    return (
        name in layer.lora_A
        and type(base) is torch.nn.Linear
        and "forward" not in layer.__dict__  # nothing else has changed the layer
        and not base._forward_hooks
        and not layer.fan_in_fan_out
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
        and isinstance(layer.lora_dropout[name], torch.nn.Identity)
    )


class _Forward:
    """Stands for the ``forward`` of one layer."""

    def __init__(self, layer: Any) -> None:
        (self.name,) = layer.active_adapters
        self.layer = layer

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """x (..., inputs) → (..., outputs)."""
        layer, name = self.layer, self.name
        base, down, up = layer.base_layer, layer.lora_A[name].weight, layer.lora_B[name].weight
        same = x.dtype == base.weight.dtype == down.dtype == up.dtype
        if args or kwargs or not same or torch.is_autocast_enabled(x.device.type):
            result: torch.Tensor = type(layer).forward(layer, x, *args, **kwargs)
            return result
        rows = x.reshape(-1, x.shape[-1])
        result = _AdaptedProduct.apply(rows, base.weight, base.bias, down, up, layer.scaling[name])  # type: ignore[no-untyped-call]
        return result.view(*x.shape[:-1], len(base.weight))


class _AdaptedProduct(torch.autograd.Function):
    """x @ weight.T + bias + scaling * (x @ down.T) @ up.T; x (rows, inputs), down (r, inputs), up (outputs, r)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """Saves what PEFT's layer saves."""
        inner = x @ down.T
        ctx.scaling = scaling
        ctx.save_for_backward(x, weight, down, up, inner)
        return torch.nn.functional.linear(x, weight, bias).addmm_(inner, up.T, alpha=scaling)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """``grad`` (rows, outputs)."""
        x, weight, down, up, inner = ctx.saved_tensors
        of_x, of_weight, of_bias, of_down, of_up = ctx.needs_input_grad[:5]
        grads: list[torch.Tensor | None] = [None] * 5
        if of_x or of_down:
            of_inner = (grad @ up).mul_(ctx.scaling)
            if of_x:
                grads[0] = (grad @ weight).addmm_(of_inner, down)
            if of_down:
                grads[3] = of_inner.T @ x
        if of_weight:
            grads[1] = grad.T @ x
        if of_bias:
            grads[2] = grad.sum(0)
        if of_up:
            grads[4] = (grad.T @ inner).mul_(ctx.scaling)
        return (*grads, None)
