"""Norms and gates in fewer passes: whose forward is taken over, and that values and gradients stay."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from support.architectures import PACKED, build

from orpo_cli.training.engine.fused_norms_and_gates import ACTIVATIONS, EagerGate, fused_norms_and_gates
from orpo_cli.training.engine.packed_step import patched_forwards
from orpo_cli.training.engine.recompute import recomputable, recompute_in_backward


def kinds(model: Any, **options: Any) -> Counter[str]:
    return Counter(type(module).__name__ for module, _ in fused_norms_and_gates(model, **options))


def passed(module: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.clone().requires_grad_()
    y = module(x)
    (y**2).mean().backward()
    found = {name: each.grad for name, each in module.named_parameters()}
    module.zero_grad()
    return {"y": y.detach(), "x": x.grad, **found}  # type: ignore[dict-item]


@pytest.mark.parametrize("name", ["llama", "qwen3", "olmo2", "gemma2", "gemma3"])
def test_values_and_gradients_equal_the_architectures(name: str) -> None:
    model = build(PACKED[name](), torch.float32)
    taken = list(fused_norms_and_gates(model))
    assert {hasattr(module, "act_fn") for module, _ in taken} == {True, False}  # gates and norms
    for module, forward in taken:
        width = module.weight.shape[-1] if hasattr(module, "weight") else module.gate_proj.in_features
        x = torch.randn(2, 7, width)
        expected = passed(module, x)
        with patched_forwards([(module, forward)]):
            mine = passed(module, x)
        for key, value in expected.items():
            torch.testing.assert_close(mine[key], value, rtol=2e-4, atol=2e-6)


def test_norms_and_gates_are_found_with_and_without_verification() -> None:
    assert (
        kinds(build(PACKED["llama"]()))
        == kinds(build(PACKED["llama"]()), verify=False)
        == {"LlamaRMSNorm": 5, "LlamaMLP": 2}
    )
    assert kinds(build(PACKED["gemma2"]())) == {"Gemma2MLP": 2, "Gemma2RMSNorm": 9}
    assert kinds(build(PACKED["gpt2"]())) == {"LayerNorm": 5}


def test_a_layer_with_another_function_keeps_its_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(PACKED["llama"]())
    kind = type(model.model.layers[0].mlp)
    forward = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, x: forward(self, x) * 1.01)
    assert kinds(model) == {"LlamaRMSNorm": 5}


def test_patched_or_hooked_layers_are_not_patched() -> None:
    model = build(PACKED["llama"]())
    model.model.norm.register_forward_hook(lambda *_: None)
    mlp = model.model.layers[0].mlp
    mlp.forward = mlp.forward
    assert kinds(model) == {"LlamaRMSNorm": 4, "LlamaMLP": 1}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_gates_gradients_are_right(name: str) -> None:
    gate, up = (torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(EagerGate(name), (gate, up))


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_the_backward_pass_computes_the_activation_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, calls = ACTIVATIONS[name], []
    monkeypatch.setitem(ACTIVATIONS, name, lambda x: calls.append(1) or function(x))
    torch.manual_seed(0)
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((5, 8), (5, 8), (8, 3))]
    gate, up, weight = tensors
    with recompute_in_backward():
        output = recomputable(EagerGate(name), gate, up) @ weight
    assert len(calls) == 1
    found = torch.autograd.grad(output.square().sum(), tensors)
    assert len(calls) == 2
    expected = torch.autograd.grad(((function(gate) * up) @ weight).square().sum(), tensors)
    for each, other in zip(found, expected, strict=True):
        torch.testing.assert_close(each, other, rtol=1e-12, atol=1e-12)
