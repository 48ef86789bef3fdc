"""Fused LoRA linear layers: base and adapter products in one autograd function, with fewer passes over memory.

PEFT computes ``base(x) + lora_B(lora_A(x)) * scaling``: the adapter's output is written, scaled and added, each in a pass
over all outputs, in forward and in backward; under autocast every layer also saves its own cast copy of its input. Here the
matrix products accumulate into the output, and layers with the same input share one saved copy. 4-bit weights on a GPU are
dequantized for the product in both passes, as bitsandbytes does. Dropout, DoRA, 8-bit weights and several active adapters
stay PEFT's.

Early in training the adapter's output is smaller than the spacing of half-precision numbers of the size of the layer's
output. Added to an output that is already rounded, it is lost. Here both products accumulate in float32 and are rounded once.

``lora_groups`` computes layers with the same input as one layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import Linear as PeftLoraLinear
from torch.nn.functional import linear, pad

from orpo_cli.training.engine.recompute import cast_once

ALIGNMENT = 8  # elements: fast half-precision products on CUDA need rows of a multiple of these


def fused_lora_forwards(model: torch.nn.Module) -> Iterator[tuple[LoraLayer, Callable[..., torch.Tensor]]]:
    """The LoRA layers of ``model`` that can be fused, each with its new forward function."""
    for module in model.modules():
        if isinstance(module, LoraLayer) and _can_fuse(module):
            yield module, FusedForward(module)


def _can_fuse(layer: Any) -> bool:
    base, names = layer.base_layer, layer.active_adapters
    if len(names) != 1 or layer.disable_adapters or layer.merged or names[0] in layer.lora_variant:
        return False
    (name,) = names
    return (
        name in layer.lora_A
        and ((type(layer) is PeftLoraLinear and type(base) is torch.nn.Linear) or _is_4bit(layer))
        and "forward" not in layer.__dict__  # nothing else has patched the layer
        and not base._forward_hooks
        and not getattr(layer, "fan_in_fan_out", False)
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
        and isinstance(layer.lora_dropout[name], torch.nn.Identity)
    )


def _is_4bit(layer: Any) -> bool:
    if type(layer).__name__ != "Linear4bit":
        return False
    weight = layer.base_layer.weight
    return weight.is_cuda and getattr(weight, "quant_state", None) is not None


class AdapterCopy(NamedTuple):
    """Adapter matrices of a layer, or of several layers as one, in the dtype of the computation.

    Several: A is (sum of r, in_features), with one layer below the other, and B (sum of out_features, sum of r) is block
    diagonal. ``places``: the rows of B and the columns of B (rows of A) of each layer; empty for one layer.
    """

    a: torch.Tensor
    b: torch.Tensor
    places: tuple[tuple[slice, slice], ...] = ()


class SharedComputation(Protocol):
    """Computation of a layer that is shared with other layers, for a micro-batch: see ``lora_groups``."""

    def compute(self, forward: FusedForward, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
        """The output of a layer, in ``dtype``; None where the layer has to compute it alone."""


class FusedForward:
    """Forward of one LoRA layer."""

    def __init__(self, layer: Any) -> None:
        (self.name,) = layer.active_adapters
        self.layer = layer
        self.casts_output = _is_4bit(layer)
        self.dequantize = partial(_dequantize, layer.base_layer) if self.casts_output else None
        self.shared: SharedComputation | None = None

    @property
    def adapter(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The matrices A and B."""
        return self.layer.lora_A[self.name].weight, self.layer.lora_B[self.name].weight

    @property
    def scaling(self) -> float:
        """The factor of the adapter's output."""
        return float(self.layer.scaling[self.name])

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """x (..., in_features) → (..., out_features); for 4-bit weights in the dtype of x, as bitsandbytes returns it."""
        output = self.compute(x, *args, **kwargs)
        if not self.casts_output:
            return output
        # the model may change it in place, which autograd forbids for a part of a shared output
        return output.clone() if output.dtype == x.dtype and output._is_view() else output.to(x.dtype)

    def compute(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The same in the dtype of the computation."""
        layer, base = self.layer, self.layer.base_layer
        adapter = self.adapter
        device_type = x.device.type
        autocast = torch.is_autocast_enabled(device_type)
        dtype = torch.get_autocast_dtype(device_type) if autocast else x.dtype
        weight = None if self.dequantize is not None else base.weight
        weight_dtype = weight.dtype if weight is not None else base.compute_dtype or dtype
        if args or kwargs or weight_dtype != dtype or not (autocast or all(each.dtype == dtype for each in adapter)):
            output: torch.Tensor = type(layer).forward(layer, x, *args, **kwargs)
            return output
        if self.shared is not None and (shared := self.shared.compute(self, x, dtype)) is not None:
            return shared
        return lora_linear(x, dtype, weight, self.dequantize, base.bias, *adapter, self.scaling)


def casts_output(layer: torch.nn.Module) -> bool:
    """Whether ``layer`` casts its output to the dtype of its input."""
    return bool(getattr(layer.__dict__.get("forward", layer), "casts_output", False))


def forward_in_compute_dtype(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """``layer(x)`` without the cast to the dtype of x, for callers that compute on in the dtype of the computation."""
    forward: Any = layer.__dict__.get("forward", layer)
    output: torch.Tensor = forward.compute(x) if casts_output(layer) else layer(x)
    return output


def lora_linear(
    x: torch.Tensor,
    dtype: torch.dtype,
    weight: torch.Tensor | None,
    dequantize: Callable[[torch.dtype], torch.Tensor] | None,
    bias: torch.Tensor | None,
    *adapter: Any,
) -> torch.Tensor:
    """``LoraLinearFunction`` of x in any dtype, computed in ``dtype``; ``adapter``: A, B and the scaling."""
    *matrices, scaling = adapter
    return apply_lora_linear(x, dtype, weight, dequantize, bias, scaling, None, *matrices)


def apply_lora_linear(x: torch.Tensor, dtype: torch.dtype, *layer: Any) -> torch.Tensor:
    """``LoraLinearFunction`` of x in any dtype, computed in ``dtype``; ``layer`` is its arguments from ``weight`` on."""
    x_cast = cast_once(x, dtype)
    device_type = x.device.type
    autocast = torch.is_autocast_enabled(device_type)
    torch.set_autocast_enabled(device_type, False)  # as torch.autocast does, in less time
    try:
        output: torch.Tensor = LoraLinearFunction.apply(x, x_cast, *layer)  # type: ignore[no-untyped-call]
    finally:
        torch.set_autocast_enabled(device_type, autocast)
    # outside the function: callers may change its output in place
    return output.view(*x.shape[:-1], output.shape[-1])


def merged_linear(forward: FusedForward, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
    """x (W + s B A)^T + bias: the adapter is added to a copy of the weight, for one product and one pass over the outputs.

    For forward passes without gradients. None in half precision, where the sum would round the adapter away, where the
    adapter's products cost less, and for sharded weights.
    """
    if dtype.itemsize < 4 or forward.dequantize is not None:
        return None
    base, (lora_a, lora_b) = forward.layer.base_layer, forward.adapter
    sharded = any(type(each) is not torch.nn.Parameter or hasattr(each, "ds_id") for each in (lora_a, lora_b))
    if sharded or x.shape[:-1].numel() * sum(base.weight.shape) < base.weight.numel():
        return None
    weight = torch.addmm(base.weight, lora_b.to(dtype), lora_a.to(dtype), alpha=forward.scaling)
    return linear(x, weight, base.bias)


def _dequantize(base: Any, dtype: torch.dtype) -> torch.Tensor:
    from bitsandbytes.functional import dequantize_4bit

    state = getattr(base.weight, "quant_state", None)
    if state is None:  # a weight that FSDP2 has gathered
        state = base.quant_state
    weight: torch.Tensor = dequantize_4bit(base.weight.data, state)
    return weight.to(dtype)


def _add_products(
    x: torch.Tensor, weight: torch.Tensor, inner: torch.Tensor, lora_b: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """x @ weight.T + inner @ lora_b.T + bias, rounded once."""
    if _rounds_before_adding(x):
        padding = -inner.shape[1] % ALIGNMENT
        inner, lora_b = (pad(each, (0, padding)) if padding else each for each in (inner, lora_b))
        return linear(torch.cat((x, inner), dim=1), torch.cat((weight, lora_b), dim=1), bias)
    first, second = _largest_first(x, (x, weight.t()), (inner, lora_b.t()))
    output = torch.mm(*first) if bias is None else torch.addmm(bias, *first)
    return output.addmm_(*second)


def _largest_first(x: torch.Tensor, large: Any, small: Any) -> tuple[Any, Any]:
    """The order in which two products are added. In half precision the adapter's, the small one, comes first, so that it is not lost
    in an output that is already rounded; in float32 the large one, because the second product is computed by MKL, see ``onednn``."""
    return (small, large) if x.dtype.itemsize < 4 else (large, small)


def _rounds_before_adding(x: torch.Tensor) -> bool:
    """cuBLAS rounds a product to half precision before it adds: ``addmm_`` loses as much there as a plain sum."""
    return x.is_cuda and x.dtype.itemsize < 4


def transposed_product(grad: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """grad^T inner, (out_features, r). MKL is faster where the long side of the result is its columns."""
    return torch.mm(inner.t(), grad).t() if grad.is_cpu else torch.mm(grad.t(), inner)


class LoraLinearFunction(torch.autograd.Function):
    """y = x W^T + b + s (x A^T) B^T (LoRA, arXiv 2106.09685, Eq. 3), with W ``weight``, A ``lora_a``, B ``lora_b``, s ``scaling``.

    Shapes: x (..., in_features), W (out_features, in_features), A (r, in_features), B (out_features, r), y (rows,
    out_features). ``x_cast`` is x in the dtype of the computation, which y has; the gradient belongs to x. ``weight`` has this
    dtype, or is None where ``dequantize(dtype)`` returns it; bias, A and B may have another. ``copy`` has A and B in this
    dtype, if they are there already. With it, ``matrices`` may be A and B of several layers, which W and ``copy`` join.

    With g = dL/dy, h = s x A^T and u = s g B:  dL/dx = g W + u A,  dL/dA = u^T x,  dL/dB = g^T h,  dL/dW = g^T x,  dL/db = sum(g).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        x_cast: torch.Tensor,
        weight: torch.Tensor | None,
        dequantize: Callable[[torch.dtype], torch.Tensor] | None,
        bias: torch.Tensor | None,
        scaling: float,
        copy: AdapterCopy | None,
        *matrices: torch.Tensor,
    ) -> torch.Tensor:
        """Saves what PEFT's layer saves."""
        dtype = x_cast.dtype
        ctx.scaling, ctx.dequantize, ctx.copy = scaling, dequantize, copy
        ctx.dtypes = x.dtype, bias.dtype if bias is not None else dtype, [each.dtype for each in matrices]
        rows = x_cast.reshape(-1, x_cast.shape[-1])
        lora_a, lora_b = copy[:2] if copy is not None else [each.to(dtype) for each in matrices]
        inner = torch.mm(rows, lora_a.t()).mul_(scaling)
        # a copy exists until the end of the backward pass anyway
        ctx.save_for_backward(x_cast, weight, inner, *(() if copy is not None else (lora_a, lora_b)))
        if weight is None:
            assert dequantize is not None
            weight = dequantize(dtype)
        return _add_products(rows, weight, inner, lora_b, None if bias is None else bias.to(dtype))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """``grad`` (rows, out_features)."""
        x_cast, weight, inner, *adapter = ctx.saved_tensors
        lora_a, lora_b = adapter or ctx.copy[:2]
        needs_x, _, needs_weight, _, needs_bias, _, _, *needs_matrices = ctx.needs_input_grad
        x_dtype, bias_dtype, matrix_dtypes = ctx.dtypes
        needs_a, needs_b = any(needs_matrices[::2]), any(needs_matrices[1::2])
        rows = x_cast.reshape(-1, x_cast.shape[-1])
        grad_x = grad_a = grad_b = None
        if needs_x or needs_a:
            grad_inner = torch.mm(grad, lora_b).mul_(ctx.scaling)
            if needs_x:
                full_weight = ctx.dequantize(grad.dtype) if weight is None else weight
                first, second = _largest_first(grad, (grad, full_weight), (grad_inner, lora_a))
                grad_x = torch.mm(*first).addmm_(*second).view(x_cast.shape).to(x_dtype)
            if needs_a:
                grad_a = torch.mm(grad_inner.t(), rows).to(matrix_dtypes[0])
        grad_weight = torch.mm(grad.t(), rows) if needs_weight else None
        grad_bias = grad.sum(0).to(bias_dtype) if needs_bias else None
        if needs_b:
            grad_b = transposed_product(grad, inner)
        places = ctx.copy.places if ctx.copy is not None else ()
        if not places:
            grad_matrices = [grad_a, None if grad_b is None else grad_b.to(matrix_dtypes[1])]
        else:
            grad_matrices = []
            for out_rows, ranks in places:
                grad_matrices.append(None if grad_a is None else grad_a[ranks])
                grad_matrices.append(None if grad_b is None else grad_b[out_rows, ranks].to(matrix_dtypes[1]))
        return (grad_x, None, grad_weight, None, grad_bias, None, None, *grad_matrices)
