"""A linear layer and its adapter in one function: PEFT's values and gradients, with and without autocast."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from orpo_cli.training.engine import fused_lora
from orpo_cli.training.engine.fused_lora import casts_output, forward_in_compute_dtype, fused_lora_forwards
from orpo_cli.training.engine.packed_step import patched_forwards


class Block(torch.nn.Module):
    """Two layers with the same input."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.first = torch.nn.Linear(64, 96, bias=True, dtype=dtype)
        self.second = torch.nn.Linear(64, 96, bias=False, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.first(x) * self.second(x)
        return result


@pytest.fixture(params=[False, True], ids=["added to", "in one product"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a CPU, and of a GPU in half precision."""
    monkeypatch.setattr(fused_lora, "_rounds_before_adding", lambda _: request.param)


def adapted(dtype: torch.dtype, adapter: torch.dtype, **options: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(**{"r": 8, "lora_alpha": 16, "target_modules": ["first", "second"], **options})
    block = inject_adapter_in_model(config, Block(dtype))
    for name, parameter in block.named_parameters():
        parameter.requires_grad_("lora" in name)
        if "lora" in name:
            parameter.data = torch.randn(parameter.shape).div(8).to(adapter)
    return block


def pass_through(block: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.clone().requires_grad_()
    y = block(x)
    (y.float() ** 2).mean().backward()
    found = {name: each.grad for name, each in block.named_parameters() if each.grad is not None}
    block.zero_grad()
    assert x.grad is not None
    return {"y": y.detach(), "x": x.grad, **found}


def error(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    assert found.keys() == exact.keys()
    return max(float((found[name].double() - each).norm() / each.norm()) for name, each in exact.items())


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("rank", [8, 3])
def test_float64_gives_pefts_values_and_gradients(rank: int) -> None:
    block, x = adapted(torch.float64, torch.float64, r=rank), torch.randn(3, 5, 64, dtype=torch.float64)
    expected = pass_through(block, x)
    layers = list(fused_lora_forwards(block))
    assert len(layers) == 2
    with patched_forwards(layers):
        assert error(pass_through(block, x), expected) < 1e-12


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("outer", [torch.float32, torch.bfloat16], ids=["float32 input", "bfloat16 input"])
def test_autocast_is_at_least_as_exact_as_pefts_and_keeps_the_types(outer: torch.dtype) -> None:
    x = torch.randn(3, 50, 64).bfloat16()
    block = adapted(torch.bfloat16, torch.float32)
    exact = pass_through(block.double(), x.double())
    block = adapted(torch.bfloat16, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        pefts = pass_through(block, x.to(outer))
        with patched_forwards(fused_lora_forwards(block)):
            ours = pass_through(block, x.to(outer))
    assert {name: each.dtype for name, each in ours.items()} == {name: each.dtype for name, each in pefts.items()}
    assert error(ours, exact) < 1.2 * error(pefts, exact)
    assert error(ours, exact) < 2e-2


@pytest.mark.usefixtures("way")
def test_a_small_adapter_output_is_not_rounded_away() -> None:
    """PEFT adds it to an output that is rounded already, whose spacing is larger."""
    x = torch.randn(1, 400, 64).bfloat16()
    block = adapted(torch.bfloat16, torch.float32)
    for name, parameter in block.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.full_like(parameter, 2e-4)
    layer = block.second
    base = (x.double() @ layer.base_layer.weight.double().T).detach()
    (down,), (up,) = layer.lora_A.values(), layer.lora_B.values()
    change = (x.double() @ down.weight.double().T @ up.weight.double().T * 2).detach()

    def output_fraction() -> float:
        """Of the change that is in the output."""
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found = layer(x).double() - base
        return float((found * change).sum() / (change * change).sum())

    pefts = output_fraction()
    with patched_forwards(fused_lora_forwards(block)):
        assert output_fraction() == pytest.approx(1, abs=0.1)
    assert pefts < 0.8


def block_in_4_bits() -> Any:
    bnb = pytest.importorskip("bitsandbytes")
    block = Block(torch.bfloat16)
    for name in ("first", "second"):
        old = getattr(block, name)
        layer = bnb.nn.Linear4bit(64, 96, bias=old.bias is not None, compute_dtype=torch.bfloat16, quant_type="nf4")
        layer.weight = bnb.nn.Params4bit(old.weight.data, requires_grad=False, quant_type="nf4").to("cpu")
        layer.bias, layer.support_avx512bf16_for_cpu = old.bias, False
        setattr(block, name, layer)
    block.is_loaded_in_4bit = True  # type: ignore[assignment]
    block = inject_adapter_in_model(LoraConfig(r=8, lora_alpha=16, target_modules=["first", "second"]), block)
    for name, parameter in block.named_parameters():
        parameter.requires_grad_("lora" in name)
        if "lora" in name:
            parameter.data = torch.randn(parameter.shape).div(8)
    return block


@pytest.mark.parametrize("outer", [torch.float32, torch.bfloat16], ids=["float32 input", "bfloat16 input"])
def test_4_bit_layers_return_the_dtype_of_their_input(outer: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_lora, "_is_4bit", lambda layer: type(layer).__name__ == "Linear4bit")  # on a CPU, too
    block, x = block_in_4_bits(), torch.randn(3, 50, 64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        pefts = pass_through(block, x.to(outer))
        with patched_forwards(fused_lora_forwards(block)):
            ours = pass_through(block, x.to(outer))
            assert forward_in_compute_dtype(block.first, x.to(outer)).dtype == torch.bfloat16
            assert casts_output(block.first)
    assert {name: each.dtype for name, each in ours.items()} == {name: each.dtype for name, each in pefts.items()}
    assert error(ours, pefts) < 2e-2


def test_layers_with_the_same_input_save_one_copy_under_autocast() -> None:
    x = torch.randn(1, 50, 64).bfloat16().requires_grad_()
    block = adapted(torch.bfloat16, torch.float32)

    def kept() -> int:
        found: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.shape[-2:] == (50, 64):
                found[tensor.untyped_storage().data_ptr()] = tensor.nbytes
            return tensor

        with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(pack, lambda each: each):
            held = block(x)
        assert held.requires_grad
        return len(found)

    assert kept() > 1
    with patched_forwards(fused_lora_forwards(block)):
        assert kept() == 1


def test_layers_with_dropout_or_dora_are_not_fused() -> None:
    assert not list(fused_lora_forwards(adapted(torch.float32, torch.float32, lora_dropout=0.1)))
    assert not list(fused_lora_forwards(adapted(torch.float32, torch.float32, use_dora=True)))
