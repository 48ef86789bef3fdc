"""LoRA layers with the same input, float32 weights and a CPU: one autograd function, without joining the weights.

Query, key and value, and gate and up, read the same input x. Their products with r columns are bound by memory: together they read x
once in place of once a layer. The gradients of x are added up inside the matrix products, and not in passes of their own.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch

from orpo_cli.model.onednn import add_product
from orpo_cli.training.engine.fused_lora import FusedForward, transposed_product


class UntakenOutputs(threading.local):
    """Outputs of a group of layers: the first that the model calls computes all, and each of the others takes its own.

    Each thread has its own, since the threads of a step run the same layers at the same time.
    """

    def __init__(self) -> None:
        self.outputs: dict[FusedForward, torch.Tensor] = {}
        self.input: tuple[weakref.ref[torch.Tensor], int, bool] | None = None  # that the outputs belong to

    def take(self, forward: FusedForward, x: torch.Tensor) -> torch.Tensor | None:
        """The output of ``forward`` for x; None if it has not been computed."""
        state = x._version, torch.is_grad_enabled()
        if self.input is None or self.input[0]() is not x or self.input[1:] != state:
            return None
        return self.outputs.pop(forward, None)

    def share(self, forward: FusedForward, x: torch.Tensor, outputs: dict[FusedForward, torch.Tensor]) -> torch.Tensor:
        """The output of ``forward``; the others of ``outputs``, which are for x, wait for their layers."""
        self.outputs, self.input = outputs, (weakref.ref(x), x._version, torch.is_grad_enabled())
        return self.outputs.pop(forward)

    def release(self) -> bool:
        """Drop outputs that no layer has taken; returns whether there were any."""
        untaken, self.outputs, self.input = bool(self.outputs), {}, None
        return untaken


class SharedInputGroup:
    """Fused LoRA layers with the same input and frozen weights in the dtype of their adapters."""

    def __init__(self, forwards: Sequence[FusedForward]) -> None:
        self.forwards = forwards
        self.scaling = forwards[0].scaling
        self.untaken = UntakenOutputs()

    @staticmethod
    def can_join(forwards: Sequence[FusedForward]) -> bool:
        """Whether ``forwards`` can be computed by one function."""
        bases = [each.layer.base_layer for each in forwards]
        if any(each.dequantize is not None for each in forwards) or len({each.scaling for each in forwards}) > 1:
            return False
        frozen = not any(parameter.requires_grad for base in bases for parameter in base.parameters())
        matrices = [base.weight for base in bases] + [matrix for each in forwards for matrix in each.adapter]
        return frozen and len({each.dtype for each in matrices}) == 1 and matrices[0].dtype.itemsize >= 4

    def suits(self, x: torch.Tensor, dtype: torch.dtype) -> bool:
        """Whether the function computes what the layers would. FSDP and ZeRO-3 gather the matrices of a layer when it runs."""
        matrices = chain.from_iterable((each.layer.base_layer.weight, *each.adapter) for each in self.forwards)
        return x.is_cpu and all(
            type(each) is torch.nn.Parameter and each.dtype == dtype == x.dtype and not hasattr(each, "ds_id")
            for each in matrices
        )

    def compute(self, forward: FusedForward, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
        """The output of ``forward``, one of the group's; None where the layer has to compute it alone."""
        if (output := self.untaken.take(forward, x)) is not None:
            return output
        if not self.suits(x, dtype):
            return None
        bases = [each.layer.base_layer for each in self.forwards]
        frozen = [(base.weight, base.bias) for base in bases]
        matrices = [matrix for each in self.forwards for matrix in each.adapter]
        outputs = SharedInputFunction.apply(x, self.scaling, frozen, *matrices)  # type: ignore[no-untyped-call]
        # outside the function: callers may change an output in place
        views = [each.view(*x.shape[:-1], each.shape[-1]) for each in outputs]
        return self.untaken.share(forward, x, dict(zip(self.forwards, views, strict=True)))

    def release(self) -> bool:
        """Drop outputs that no layer has taken; returns whether there were any."""
        return self.untaken.release()


class SharedInputFunction(torch.autograd.Function):
    """The outputs y_i of ``LoraLinearFunction`` for layers i with the same x and s, W_i and b_i frozen: see there.

    With A the A_i one below the other, h = s x A^T and u = s (g_1 B_1, g_2 B_2, ...), side by side:
    dL/dx = u A + sum_i g_i W_i,  dL/dA = u^T x,  dL/dB_i = g_i^T h_i.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        scaling: float,
        frozen: Sequence[tuple[torch.Tensor, torch.Tensor | None]],
        *matrices: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """x (..., in_features) → (rows, out_features) of each layer. ``frozen``: W and b, ``matrices``: A and B of each."""
        rows = x.reshape(-1, x.shape[-1])
        ctx.scaling, ctx.ranks = scaling, [len(each) for each in matrices[::2]]
        joined_a = torch.cat(matrices[::2])
        inner = torch.mm(rows, joined_a.t()).mul_(scaling)
        ctx.save_for_backward(x, inner, joined_a, *(weight for weight, _ in frozen), *matrices[1::2])
        outputs = []
        for part, lora_b, (weight, bias) in zip(torch.split(inner, ctx.ranks, 1), matrices[1::2], frozen, strict=True):
            output = torch.mm(rows, weight.t()) if bias is None else torch.addmm(bias, rows, weight.t())
            outputs.append(output.addmm_(part, lora_b.t()))
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        """``grads`` (rows, out_features) of each layer."""
        x, inner, joined_a, *rest = ctx.saved_tensors
        weights, lora_bs = rest[: len(grads)], rest[len(grads) :]
        needs_x, _, _, *needs_matrices = ctx.needs_input_grad
        grad_inner = torch.empty_like(inner)
        for part, grad, lora_b in zip(torch.split(grad_inner, ctx.ranks, 1), grads, lora_bs, strict=True):
            torch.mm(grad, lora_b, out=part)
        grad_inner.mul_(ctx.scaling)
        grad_x = None
        if needs_x:
            grad_x = torch.mm(grads[0], weights[0])
            for grad, weight in zip(grads[1:], weights[1:], strict=True):
                grad_x = add_product(grad_x, grad, weight)
            grad_x = grad_x.addmm_(grad_inner, joined_a).view(x.shape)
        grad_matrices: list[torch.Tensor | None] = [None] * len(needs_matrices)
        if any(needs_matrices[::2]):
            grad_matrices[::2] = torch.split(torch.mm(grad_inner.t(), x.reshape(-1, x.shape[-1])), ctx.ranks)
        if any(needs_matrices[1::2]):
            parts = torch.split(inner, ctx.ranks, 1)
            grad_matrices[1::2] = [transposed_product(grad, part) for grad, part in zip(grads, parts, strict=True)]
        return (grad_x, None, None, *grad_matrices)
