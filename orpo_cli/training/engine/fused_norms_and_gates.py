"""Fused norms and gated activations: fewer passes over memory, and less saved for the backward pass.

transformers writes an RMS norm as six operations that save three copies of its input, and a gate as two that save three.
Here a norm saves its input (..., hidden_size) and a gate its two inputs (..., intermediate_size); their results are
recomputed in the backward pass (``recompute``). On CUDA torch's fused rms_norm and a compiled gate do it, elsewhere the
autograd functions below. A layer is patched only if its own forward pass gives the same on random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch.nn.functional import gelu, layer_norm, rms_norm, silu

from orpo_cli.training.engine.compiled_kernels import CompiledFunction
from orpo_cli.training.engine.fused_lora import casts_output, forward_in_compute_dtype
from orpo_cli.training.engine.recompute import recomputable

Forward = Callable[[torch.Tensor], torch.Tensor]

ACTIVATIONS: dict[str, Forward] = {"silu": silu, "gelu_tanh": lambda x: gelu(x, approximate="tanh")}
# Relative difference allowed between a layer and its fused forward: transformers computes norms in float32.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def fused_norms_and_gates(model: torch.nn.Module, *, verify: bool = True) -> Iterator[tuple[torch.nn.Module, Forward]]:
    """The norms and gated layers of ``model``, each with its new forward function.

    One layer of each class and size is computed both ways and compared. ``verify=False`` goes by class and attribute names
    alone, for models without values (memory_trace).
    """
    choices: dict[str, int | None] = {}
    for module in model.modules():
        if "forward" in module.__dict__ or module._forward_hooks or module._forward_pre_hooks:
            continue  # patched or observed by something else
        candidates = _candidate_norms(module) or _candidate_gates(module, verify)
        if not candidates:
            continue
        key = f"{module} {[tuple(each.shape) for each in module.parameters()]}"
        if key not in choices:
            matching = (index for index, each in enumerate(candidates) if not verify or _outputs_match(module, each))
            choices[key] = next(matching, None)
        if (index := choices[key]) is not None:
            yield module, candidates[index]


def _candidate_norms(module: Any) -> list[Forward]:
    """Fused forwards that may compute what ``module`` computes; empty if it does not look like a norm."""
    if type(module) is torch.nn.LayerNorm and module.weight is not None and len(module.normalized_shape) == 1:
        return [partial(_layer_norm, module)]
    if not type(module).__name__.endswith("RMSNorm") or dict(module.named_parameters()).keys() != {"weight"}:
        return []
    eps = next((each for name in ("variance_epsilon", "eps") if (each := getattr(module, name, None))), None)
    if not isinstance(eps, float) or module.weight.dim() != 1:
        return []
    return [partial(_rms_norm, module, eps, offset) for offset in (0, 1)]  # Gemma multiplies by 1 + weight


def _candidate_gates(module: Any, verify: bool) -> list[Forward]:
    """Fused forwards of a gated layer whose activation is one of ``ACTIVATIONS``, by value or (not ``verify``) by name."""
    if {name for name, _ in module.named_children()} != {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        return []
    if verify:
        x = torch.linspace(-6, 6, 100)
        output = module.act_fn(x)
        names = [name for name, each in ACTIVATIONS.items() if torch.allclose(output, each(x), rtol=1e-5, atol=1e-6)]
    else:
        class_name = type(module.act_fn).__name__.lower().replace("activation", "")
        names = [name for name in ACTIVATIONS if name.replace("_", "") in class_name]
    return [partial(_gated_layer, module, name) for name in names[:1]]


def _outputs_match(module: Any, forward: Forward) -> bool:
    weight = next((each for each in module.parameters() if each.is_floating_point()), None)
    if weight is None or hasattr(
        weight, "device_mesh"
    ):  # a sharded DTensor, which is gathered only inside the model's forward pass
        return False
    width = getattr(getattr(module, "gate_proj", None), "in_features", weight.shape[-1])
    was_training = module.training
    module.eval()  # without dropout
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            x = torch.randn(2, 3, width).to(weight.device, weight.dtype)
            expected, output = module(x), forward(x)
    finally:
        module.train(was_training)
    tolerance = TOLERANCE[weight.dtype]
    close = torch.allclose(output, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))
    return output.dtype == expected.dtype and close


def _layer_norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    """Forward of torch's LayerNorm, x (..., hidden_size) → the same shape; it saves its input and two numbers a row."""
    if torch.is_autocast_enabled(x.device.type):  # it chooses the dtype, and is not active in the backward pass
        return type(module).forward(module, x)  # type: ignore[no-any-return]

    def norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return layer_norm(x, list(weight.shape), weight, bias, module.eps)

    return recomputable(norm, x, module.weight, *([] if module.bias is None else [module.bias]))


def _rms_norm(module: Any, eps: float, offset: int, x: torch.Tensor) -> torch.Tensor:
    """Forward of an RMS norm that multiplies by ``offset`` + weight: x (..., hidden_size) → the same shape and dtype."""
    mixed = x.dtype != module.weight.dtype  # half-precision weights with norms in float32
    if mixed and (offset or not x.is_cuda):
        return type(module).forward(module, x)  # type: ignore[no-any-return]

    def norm(x: torch.Tensor, weight: torch.Tensor) -> Any:
        wide = x
        with torch.autocast(x.device.type, enabled=False):
            if offset:  # rounded once, at the end, as Gemma does
                wide, weight = _upcast(x), _upcast(weight) + offset
            if not x.is_cuda:
                return RmsNormFunction.apply(x, weight, eps)  # type: ignore[no-untyped-call]
            if mixed:
                return weight * rms_norm(x, list(weight.shape), None, eps)
            return rms_norm(wide, list(weight.shape), weight, eps).to(x.dtype)

    return recomputable(norm, x, module.weight)


def _upcast(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype.itemsize >= 4 else x.float()


class RmsNormFunction(torch.autograd.Function):
    """y = w * x * r with r = 1 / sqrt(mean(x^2) + eps) a row (RMSNorm, arXiv 1910.07467, Eq. 4), in float32 at least.

    It rounds where transformers' LlamaRMSNorm rounds. With g = dL/dy, c = g * w and n = hidden_size:
    dL/dx = c * r - x * sum(c * x) * r^3 / n, and dL/dw = the sum over rows of g * x * r.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Saves x and one number a row."""
        wide = _upcast(x)
        scale: torch.Tensor = (
            torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        )
        ctx.save_for_backward(x, weight, scale)
        if weight.dtype != x.dtype:
            return (wide * scale).mul_(weight).to(x.dtype)
        return (wide * scale).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """``grad`` has the shape of x."""
        x, weight, scale = ctx.saved_tensors
        wide, wide_grad = _upcast(x), _upcast(grad)
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (wide_grad * wide).mul_(scale).flatten(0, -2).sum(0).to(weight.dtype)
        if not ctx.needs_input_grad[0]:
            return None, grad_weight, None
        scaled_grad = wide_grad * weight
        projection = torch.linalg.vecdot(scaled_grad, wide).unsqueeze(-1) * scale**3 / x.shape[-1]
        grad_x = scaled_grad.mul_(scale).addcmul_(wide, projection, value=-1).to(x.dtype)
        return grad_x, grad_weight, None


def _gated_layer(module: Any, activation: str, x: torch.Tensor) -> torch.Tensor:
    """Forward of a gated MLP (SwiGLU, GeGLU; arXiv 2002.05202, Eq. 6): down_proj(activation(gate_proj(x)) * up_proj(x)).

    x (..., hidden_size) → the same shape.
    """
    gate, up = (forward_in_compute_dtype(layer, x) for layer in (module.gate_proj, module.up_proj))
    gated_activation = _compiled_gate(activation) if gate.is_cuda else EagerGate(activation)
    output: torch.Tensor = module.down_proj(recomputable(gated_activation, gate, up))
    return output.to(x.dtype) if casts_output(module.gate_proj) else output


class EagerGate:
    """``GatedActivation`` of one gate; its recomputation keeps the activation for the backward function, which follows."""

    def __init__(self, activation: str) -> None:
        self.activation = activation
        self.recomputed: torch.Tensor | None = None

    def __call__(self, gate: torch.Tensor, up: torch.Tensor) -> Any:
        """activation(gate) * up."""
        return GatedActivation.apply(gate, up, self)  # type: ignore[no-untyped-call]


@cache
def _compiled_gate(activation: str) -> CompiledFunction:
    function = ACTIVATIONS[activation]
    return CompiledFunction(lambda gate, up: function(gate) * up)


class GatedActivation(torch.autograd.Function):
    """activation(gate) * up, element-wise; the activation is computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, function: EagerGate) -> torch.Tensor:
        """Saves gate and up."""
        ctx.save_for_backward(gate, up)
        ctx.function = function
        activated = ACTIVATIONS[function.activation](gate)
        if any(ctx.needs_input_grad):
            return activated.mul_(up)
        function.recomputed = activated
        return activated * up

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """``grad`` has the shape of gate."""
        gate, up = ctx.saved_tensors
        function = ctx.function
        activated, function.recomputed = function.recomputed, None
        if activated is None:
            activated = ACTIVATIONS[function.activation](gate)
        grad_gate = grad * up  # of the activation; the derivative multiplies it in place
        if function.activation == "silu":
            torch.ops.aten.silu_backward.grad_input(grad_gate, gate, grad_input=grad_gate)
        else:
            torch.ops.aten.gelu_backward.grad_input(grad_gate, gate, approximate="tanh", grad_input=grad_gate)
        return grad_gate, activated.mul_(grad), None
