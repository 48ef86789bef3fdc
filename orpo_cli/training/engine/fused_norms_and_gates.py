"""Norms and gated activations in fewer passes over memory, and with less kept for the backward pass.

transformers writes an RMS norm as six operations and keeps three copies of its input for the backward pass, and a gate as two
that keep three. Here a norm keeps its input, a gate its two inputs; what they give is made again where it is needed. On CUDA
torch's own fused norm and a compiled gate do it, elsewhere the functions below. A layer takes part if its own forward pass gave
the same on random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch.nn.functional import gelu, layer_norm, rms_norm, silu

from orpo_cli.training.engine.compiled_kernels import Compiled
from orpo_cli.training.engine.fused_lora import unwidened, widens
from orpo_cli.training.engine.recompute import cheap

Forward = Callable[[torch.Tensor], torch.Tensor]

ACTIVATIONS: dict[str, Forward] = {"silu": silu, "gelu_tanh": lambda x: gelu(x, approximate="tanh")}
# transformers computes norms in float32
ALIKE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def fused_norms_and_gates(model: torch.nn.Module, *, tried: bool = True) -> Iterator[tuple[torch.nn.Module, Forward]]:
    """The norms and gated layers of ``model`` with another forward for each.

    One layer of each class and size is tried first; ``tried=False`` takes their looks for it, where there are no numbers.
    """
    known: dict[Any, Any] = {}
    module: Any
    for module in model.modules():
        if "forward" in module.__dict__ or module._forward_hooks or module._forward_pre_hooks:
            continue  # something else has changed it, or listens to it
        if norms := _norms(module):
            key = (type(module), module.weight.shape)
            if key not in known:
                alike = (place for place, each in enumerate(norms) if not tried or _same(module, each, module.weight))
                known[key] = next(alike, None)
            if known[key] is not None:
                yield module, norms[known[key]]
        elif _is_gated(module):
            kind = (type(module), type(module.act_fn), repr(module.act_fn))
            if kind not in known:
                known[kind] = _activation(module, tried)
            if name := known[kind]:
                yield module, _Gated(module, name)


def _norms(module: Any) -> list[Forward]:
    """What may be what ``module`` computes; empty if it does not look like a norm."""
    if type(module) is torch.nn.LayerNorm and module.weight is not None and len(module.normalized_shape) == 1:
        return [_LayerNorm(module)]
    if not type(module).__name__.endswith("RMSNorm") or dict(module.named_parameters()).keys() != {"weight"}:
        return []
    eps = next((each for name in ("variance_epsilon", "eps") if (each := getattr(module, name, None))), None)
    if not isinstance(eps, float) or module.weight.dim() != 1:
        return []
    return [_Norm(module, eps, added) for added in (0, 1)]  # Gemma's adds one to its weight


def _is_gated(module: Any) -> bool:
    return {name for name, _ in module.named_children()} == {"gate_proj", "up_proj", "down_proj", "act_fn"}


def _activation(module: Any, tried: bool) -> str | None:
    if not tried:
        return next((name for name in ACTIVATIONS if _names(module.act_fn, name)), None)
    x = torch.linspace(-6, 6, 100)
    alike = (
        name for name, each in ACTIVATIONS.items() if torch.allclose(module.act_fn(x), each(x), rtol=1e-5, atol=1e-6)
    )
    weight = next((each for each in module.parameters() if each.is_floating_point()), None)
    name = next(alike, None)
    return name if name is not None and weight is not None and _same(module, _Gated(module, name), weight) else None


def _names(activation: Any, name: str) -> bool:
    return name.replace("_", "") in type(activation).__name__.lower().replace("activation", "")


def _same(module: Any, forward: Forward, weight: torch.Tensor) -> bool:
    if hasattr(weight, "device_mesh"):  # a DTensor, sharded already: it is whole only inside the model's forward pass
        return False
    width = getattr(getattr(module, "gate_proj", None), "in_features", weight.shape[-1])
    was_training = module.training
    module.eval()  # without dropout
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            x = torch.randn(2, 3, width).to(weight.device, weight.dtype)
            expected, found = module(x), forward(x)
    finally:
        module.train(was_training)
    close = torch.allclose(
        found, expected, rtol=ALIKE[weight.dtype], atol=ALIKE[weight.dtype] * float(expected.abs().max())
    )
    return found.dtype == expected.dtype and close


class _LayerNorm:
    """Stands for the ``forward`` of torch's layer norm, which keeps its input and two numbers a row."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., width) → the same shape."""
        weight, bias, eps = self.module.weight, self.module.bias, self.module.eps
        if torch.is_autocast_enabled(x.device.type):  # which decides the type, and is over in the backward pass
            result: torch.Tensor = type(self.module).forward(self.module, x)
            return result

        def normed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
            return layer_norm(x, list(weight.shape), weight, bias, eps)

        return cheap(normed, x, weight) if bias is None else cheap(normed, x, weight, bias)


class _Norm:
    """Stands for the ``forward`` of an RMS norm by ``added`` + its weight."""

    def __init__(self, module: Any, eps: float, added: int) -> None:
        self.module, self.eps, self.added = module, eps, added

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., width) → the same shape and type."""
        weight = self.module.weight
        mixed = x.dtype != weight.dtype  # half-precision weights with norms in float32
        if mixed and (self.added or not x.is_cuda):
            result: torch.Tensor = type(self.module).forward(self.module, x)
            return result

        def normed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            with torch.autocast(x.device.type, enabled=False):
                return self._with_added(x, weight) if self.added else self._plain(x, weight, mixed)

        return cheap(normed, x, weight)

    def _plain(self, x: torch.Tensor, weight: torch.Tensor, mixed: bool) -> torch.Tensor:
        if x.is_cuda:
            normed = rms_norm(x, list(weight.shape), None if mixed else weight, self.eps)
            return weight * normed if mixed else normed
        result: torch.Tensor = _RmsNorm.apply(x, weight, self.eps)  # type: ignore[no-untyped-call]
        return result

    def _with_added(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Rounded once, at the end."""
        wide, factor = (each if each.dtype.itemsize >= 4 else each.float() for each in (x, weight))
        if x.is_cuda:
            return rms_norm(wide, list(weight.shape), factor + self.added, self.eps).to(x.dtype)
        result: torch.Tensor = _RmsNorm.apply(x, factor + self.added, self.eps)  # type: ignore[no-untyped-call]
        return result


class _RmsNorm(torch.autograd.Function):
    """weight * (x / root(mean(x²) + eps)), computed in float32 at least and rounded where transformers rounds."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Keeps x and one number a row."""
        wide = x if x.dtype.itemsize >= 4 else x.float()
        scale: torch.Tensor = (
            torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        )
        ctx.save_for_backward(x, weight, scale)
        if weight.dtype != x.dtype:
            return (wide * scale).mul_(weight).to(x.dtype)
        return (wide * scale).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """``grad`` as x."""
        x, weight, scale = ctx.saved_tensors
        wide, of_y = (each if each.dtype.itemsize >= 4 else each.float() for each in (x, grad))
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = (of_y * wide).mul_(scale).flatten(0, -2).sum(0).to(weight.dtype)
        if not ctx.needs_input_grad[0]:
            return None, of_weight, None
        change = of_y * weight
        along = torch.linalg.vecdot(change, wide).unsqueeze(-1) * scale**3 / x.shape[-1]
        return change.mul_(scale).addcmul_(wide, along, value=-1).to(x.dtype), of_weight, None


class _Gated:
    """Stands for the ``forward`` of a layer with a gate: down(activation(gate(x)) * up(x))."""

    def __init__(self, module: Any, activation: str) -> None:
        self.module = module
        self.activation = activation

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., width) → the same shape."""
        module = self.module
        gate, up = (unwidened(layer, x) for layer in (module.gate_proj, module.up_proj))
        product = _compiled(self.activation) if gate.is_cuda else _eager(self.activation)
        result: torch.Tensor = module.down_proj(cheap(product, gate, up))
        return result.to(x.dtype) if widens(module.gate_proj) else result


def _eager(activation: str) -> Callable[[torch.Tensor, torch.Tensor], Any]:
    return lambda gate, up: _Gate.apply(gate, up, activation)  # type: ignore[no-untyped-call]


@cache
def _compiled(activation: str) -> Compiled:
    function = ACTIVATIONS[activation]
    return Compiled(lambda gate, up: function(gate) * up)


class _Gate(torch.autograd.Function):
    """activation(gate) * up, any shape; the activation is computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
        """Keeps gate and up."""
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        return ACTIVATIONS[activation](gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """``grad`` as gate."""
        gate, up = ctx.saved_tensors
        of_product = grad * up
        if ctx.activation == "silu":
            of_gate = torch.ops.aten.silu_backward(of_product, gate)
        else:
            of_gate = torch.ops.aten.gelu_backward(of_product, gate, approximate="tanh")
        return of_gate, ACTIVATIONS[ctx.activation](gate).mul_(grad), None
