"""Fused rotary position embedding (RoPE, arXiv 2104.09864, Eq. 34) on a CPU, with fewer passes over memory.

transformers computes ``q * cos + rotate_half(q) * sin`` in five operations in forward and eight in backward, half of which copy
halves of q. Here a pass multiplies, and two passes over half of q add. A model's function is replaced only if it gives the same
on random numbers: other functions rotate neighbouring elements, or a part of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from orpo_cli.training.engine.compiled_kernels import RotaryFunction, rotary_functions


class FusedRotary:
    """``function`` (q, k, cos, sin), computed by ``RotaryEmbedding`` where its inputs are those of the comparison."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, q: torch.Tensor, k: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """q (batch, heads, tokens, head_dim), k the same with its own heads; cos and sin (batch, tokens, head_dim)."""
        if len(args) == 2 and not kwargs and all(_suits(q, each) and _suits(k, each) for each in args):
            cos, sin = (each.unsqueeze(1) for each in args)
            return tuple(RotaryEmbedding.apply(each, cos, sin) for each in (q, k))  # type: ignore[no-untyped-call]
        return self.function(q, k, *args, **kwargs)


class RotaryEmbedding(torch.autograd.Function):
    """y = x cos + (-x_2, x_1) sin with x_1 and x_2 the halves of a head. Gradient: g cos + (g_2 sin_2, -g_1 sin_1)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """x (batch, heads, tokens, head_dim) → the same; cos and sin (batch, 1, tokens, head_dim), without gradients."""
        ctx.save_for_backward(cos, sin)
        (x1, x2), (sin1, sin2) = (each.chunk(2, dim=-1) for each in (x, sin))
        return _add_to_halves(x * cos, (x2, sin1, -1), (x1, sin2, 1))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """``grad`` has the shape of x."""
        cos, sin = ctx.saved_tensors
        (g1, g2), (sin1, sin2) = (each.chunk(2, dim=-1) for each in (grad, sin))
        return _add_to_halves(grad * cos, (g2, sin2, 1), (g1, sin1, -1)), None, None


def _add_to_halves(output: torch.Tensor, *products: tuple[torch.Tensor, torch.Tensor, int]) -> torch.Tensor:
    for half, (left, right, sign) in zip(output.chunk(2, dim=-1), products, strict=True):
        half.addcmul_(left, right, value=sign)
    return output


def _suits(x: torch.Tensor, factor: Any) -> bool:
    return (
        isinstance(factor, torch.Tensor)
        and x.is_cpu
        and x.dtype == factor.dtype
        and x.dtype.itemsize >= 4
        and factor.shape == (x.shape[0], x.shape[2], x.shape[3])
        and not factor.requires_grad
    )


def fuse_rotary_functions(model: torch.nn.Module) -> list[tuple[dict[str, Any], RotaryFunction]]:
    """The namespaces with a rotary function that ``FusedRotary`` computes too, each with its replacement."""
    return [
        (namespace, FusedRotary(function))
        for namespace, function in rotary_functions(model)
        if _computes_the_same(function)
    ]


def _computes_the_same(function: Callable[..., Any]) -> bool:
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 3, 8, generator=draw, dtype=torch.float64) for heads in (2, 1))
    cos, sin = (torch.randn(2, 3, 8, generator=draw, dtype=torch.float64) for _ in range(2))
    try:
        expected = function(q, k, cos, sin)
    except Exception:  # it takes other arguments
        return False
    found = FusedRotary(function)(q, k, cos, sin)
    return len(expected) == 2 and all(map(torch.allclose, found, expected))
