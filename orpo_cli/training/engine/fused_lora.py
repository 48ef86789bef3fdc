"""Linear layers with a LoRA adapter in fewer passes over memory.

PEFT computes ``base(x) + lora_B(lora_A(x)) * scaling``: the product of the adapter is written, scaled and added, each in a pass
of its own over all outputs, and once more in the backward pass; under autocast every layer keeps a copy of its input as well, by
way of float32. Here the matrix products add to what is there, and layers with the same input keep it once. Weights in 4 bits
on a GPU are dequantized for the product, in both passes, as bitsandbytes does it. Dropout, DoRA, weights in 8 bits and several
adapters at once stay PEFT's.

What a young adapter adds is smaller than the spacing of half-precision numbers as large as the layer's output, and is lost where it is
added to a rounded one. So both products add up in the float32 in which each of them adds up, and are rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import Linear as LoraLinear
from torch.nn.functional import linear, pad

from orpo_cli.training.engine.recompute import narrowed

ALIGNED = 8  # numbers in half precision, of which the rows of a fast product have a multiple


def fused(model: torch.nn.Module) -> Iterator[tuple[LoraLayer, Callable[..., torch.Tensor]]]:
    """The layers of ``model`` that can be computed so, with another forward for each."""
    for module in model.modules():
        if isinstance(module, LoraLayer) and _is_plain(module):
            yield module, _Forward(module)


def _is_plain(layer: Any) -> bool:
    base, names = layer.base_layer, layer.active_adapters
    if len(names) != 1 or layer.disable_adapters or layer.merged or names[0] in layer.lora_variant:
        return False
    (name,) = names
    return (
        name in layer.lora_A
        and ((type(layer) is LoraLinear and type(base) is torch.nn.Linear) or _is_in_4_bits(layer))
        and "forward" not in layer.__dict__  # nothing else has changed the layer
        and not base._forward_hooks
        and not getattr(layer, "fan_in_fan_out", False)
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
        and isinstance(layer.lora_dropout[name], torch.nn.Identity)
    )


def _is_in_4_bits(layer: Any) -> bool:
    if type(layer).__name__ != "Linear4bit":
        return False
    weight = layer.base_layer.weight
    return weight.is_cuda and getattr(weight, "quant_state", None) is not None


class _Forward:
    """Stands for the ``forward`` of one layer."""

    def __init__(self, layer: Any) -> None:
        (self.name,) = layer.active_adapters
        self.layer = layer
        self.widens = _is_in_4_bits(layer)
        self.dequantized = _dequantized(layer.base_layer) if self.widens else None

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """x (..., inputs) → (..., outputs); in the type of x where the weight is in 4 bits, as bitsandbytes gives it."""
        result = self.product(x, *args, **kwargs)
        return result.to(x.dtype) if self.widens else result

    def product(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The same in the type that it is computed in."""
        layer, base = self.layer, self.layer.base_layer
        adapter = layer.lora_A[self.name].weight, layer.lora_B[self.name].weight
        kind = x.device.type
        autocast = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if autocast else x.dtype
        weight = None if self.dequantized is not None else base.weight
        own = weight.dtype if weight is not None else base.compute_dtype or dtype
        if args or kwargs or own != dtype or not (autocast or all(each.dtype == dtype for each in adapter)):
            result: torch.Tensor = type(layer).forward(layer, x, *args, **kwargs)
            return result
        return adapted_product(x, dtype, weight, self.dequantized, base.bias, *adapter, layer.scaling[self.name])


def widens(layer: torch.nn.Module) -> bool:
    """Whether ``layer`` turns its result into the type of its input."""
    return bool(getattr(layer.__dict__.get("forward", layer), "widens", False))


def unwidened(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What ``layer`` gives for x, in the type that it is computed in, for those that need no other."""
    forward: Any = layer.__dict__.get("forward", layer)
    result: torch.Tensor = forward.product(x) if widens(layer) else layer(x)
    return result


def adapted_product(
    x: torch.Tensor,
    dtype: torch.dtype,
    weight: torch.Tensor | None,
    dequantized: Callable[[torch.dtype], torch.Tensor] | None,
    bias: torch.Tensor | None,
    down: torch.Tensor,
    up: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """``AdaptedProduct`` of x in any type, computed in ``dtype``."""
    narrow = narrowed(x, dtype)
    with torch.autocast(x.device.type, enabled=False):
        result: torch.Tensor = AdaptedProduct.apply(x, narrow, weight, dequantized, bias, down, up, scaling)  # type: ignore[no-untyped-call]
    return result.view(*x.shape[:-1], len(up))  # not within: what it gives may be changed in place


def _dequantized(base: Any) -> Callable[[torch.dtype], torch.Tensor]:
    from bitsandbytes.functional import dequantize_4bit

    def weight(dtype: torch.dtype) -> torch.Tensor:
        found: torch.Tensor = dequantize_4bit(base.weight.data, base.weight.quant_state)
        return found.to(dtype)

    return weight


def _sum_of_products(
    rows: torch.Tensor, weight: torch.Tensor, inner: torch.Tensor, up: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """rows @ weight.T + inner @ up.T + bias, rounded once."""
    if _rounds_before_it_adds(rows):
        odd = -inner.shape[1] % ALIGNED
        inner, up = (pad(each, (0, odd)) if odd else each for each in (inner, up))
        return linear(torch.cat((rows, inner), dim=1), torch.cat((weight, up), dim=1), bias)
    result = inner @ up.T if bias is None else torch.addmm(bias, inner, up.T)
    return result.addmm_(rows, weight.T)


def _rounds_before_it_adds(rows: torch.Tensor) -> bool:
    """cuBLAS rounds a product to half precision and adds it then: in ``addmm_`` as much is lost as in a plain sum."""
    return rows.is_cuda and rows.dtype.itemsize < 4


class AdaptedProduct(torch.autograd.Function):
    """x @ weight.T + bias + scaling * (x @ down.T) @ up.T, (rows, outputs); x (..., inputs), down (r, inputs), up (outputs, r).

    ``narrow`` are the numbers of x in the type that is computed in and that the result has; the gradient is that of x. ``weight``
    (outputs, inputs) has this type, or is None where ``dequantized(type)`` gives it; bias, down and up may have another.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        narrow: torch.Tensor,
        weight: torch.Tensor | None,
        dequantized: Callable[[torch.dtype], torch.Tensor] | None,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """Saves what PEFT's layer saves."""
        dtype = narrow.dtype
        ctx.scaling, ctx.dequantized = scaling, dequantized
        ctx.types = x.dtype, bias.dtype if bias is not None else dtype, down.dtype, up.dtype
        rows, down, up = narrow.reshape(-1, narrow.shape[-1]), down.to(dtype), up.to(dtype)
        inner = (rows @ down.T).mul_(scaling)
        ctx.save_for_backward(narrow, weight, down, up, inner)
        if weight is None:
            assert dequantized is not None
            weight = dequantized(dtype)
        return _sum_of_products(rows, weight, inner, up, None if bias is None else bias.to(dtype))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """``grad`` (rows, outputs)."""
        narrow, weight, down, up, inner = ctx.saved_tensors
        of_x, _, of_weight, _, of_bias, of_down, of_up = ctx.needs_input_grad[:7]
        type_of_x, type_of_bias, type_of_down, type_of_up = ctx.types
        rows = narrow.reshape(-1, narrow.shape[-1])
        grads: list[torch.Tensor | None] = [None] * 7
        if of_x or of_down:
            of_inner = (grad @ up).mul_(ctx.scaling)
            if of_x:
                whole = ctx.dequantized(grad.dtype) if weight is None else weight
                grads[0] = (of_inner @ down).addmm_(grad, whole).view(narrow.shape).to(type_of_x)
            if of_down:
                grads[5] = (of_inner.T @ rows).to(type_of_down)
        if of_weight:
            grads[2] = grad.T @ rows
        if of_bias:
            grads[4] = grad.sum(0).to(type_of_bias)
        if of_up:
            grads[6] = (grad.T @ inner).to(type_of_up)
        return (*grads, None)
