"""Layers with the same input as one layer: the values of separate layers, in fewer operators."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from support.architectures import COMMON
from support.steps import BETA, gradients, random_pairs

from orpo_cli.training.engine import fused_lora
from orpo_cli.training.engine.fused_lora import fused_lora_forwards
from orpo_cli.training.engine.lora_groups import LoraGroups, Weights4bit
from orpo_cli.training.engine.packed_step import Engine, patched_forwards

bnb = pytest.importorskip("bitsandbytes")


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code for CUDA, on a CPU."""
    monkeypatch.setattr(fused_lora, "_is_4bit", lambda layer: type(layer).__name__ == "Linear4bit")
    monkeypatch.setattr(fused_lora, "_rounds_before_adding", lambda _: True)


def linear_4bit(weight: torch.Tensor, nested: bool, bias: torch.Tensor | None = None) -> Any:
    kind = {"quant_type": "nf4", "compress_statistics": nested}
    layer = bnb.nn.Linear4bit(
        weight.shape[1], weight.shape[0], bias=bias is not None, compute_dtype=torch.bfloat16, **kind
    )
    layer.weight = bnb.nn.Params4bit(weight.bfloat16(), requires_grad=False, **kind).to("cpu")
    layer.support_avx512bf16_for_cpu = False
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias.bfloat16(), requires_grad=False)
    return layer


class Attention(torch.nn.Module):
    """Projections of one input."""

    def __init__(self, nested: bool = True, biased: bool = False, sizes: tuple[int, ...] = (256, 128, 128)) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        for name, size in zip(("q_proj", "k_proj", "v_proj"), sizes, strict=True):
            bias = torch.randn(size, generator=draw) if biased else None
            setattr(self, name, linear_4bit(torch.randn(size, 128, generator=draw) / 10, nested, bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([getattr(self, name)(x) for name in ("q_proj", "k_proj", "v_proj")], dim=-1)


class KeysOfAnotherInput(Attention):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.q_proj(x), self.k_proj(x * 2), self.v_proj(x * 2)), dim=-1)


class QueryOnly(Attention):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.q_proj(x)  # type: ignore[no-any-return]


class ChangedInPlace(Attention):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([getattr(self, name)(x).mul_(2) for name in ("q_proj", "k_proj", "v_proj")], dim=-1)


def adapted(block: torch.nn.Module, **options: Any) -> Any:
    block.is_loaded_in_4bit = True  # type: ignore[assignment]
    names = {"r": 6, "lora_alpha": 12, "target_modules": ["q_proj", "k_proj", "v_proj"], **options}
    block = inject_adapter_in_model(LoraConfig(**names), block)
    torch.manual_seed(1)
    for name, parameter in block.named_parameters():
        parameter.requires_grad_("lora" in name)
        if "lora" in name:
            parameter.data = torch.randn(parameter.shape).div(8)
    return block


def pass_through(block: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.clone().requires_grad_()
    y = block(x)
    (y.float() ** 2).mean().backward()
    assert x.grad is not None
    return {"y": y.detach(), "x": x.grad, **gradients(block)}


def separate_and_shared(
    block: Any, x: torch.Tensor
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], LoraGroups]:
    forwards = list(fused_lora_forwards(block))
    with torch.autocast("cpu", torch.bfloat16):
        with patched_forwards(forwards):
            separate = pass_through(block, x)
        groups = LoraGroups(block, forwards)
        with patched_forwards(forwards), groups.shared():
            shared = pass_through(block, x)
    return separate, shared, groups


def assert_close(found: torch.Tensor, expected: torch.Tensor, name: str | None = None) -> None:
    """Equal up to the rounding of bfloat16: on some processors a product of joined matrices is added up in another order."""
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max()), msg=name)


def sizes(groups: LoraGroups) -> list[int]:
    return [len(group.forwards) for group in dict.fromkeys(groups.groups.values())]


@pytest.mark.parametrize("nested", [False, True], ids=["plain", "double quantized"])
def test_joined_weights_are_those_of_the_layers(nested: bool) -> None:
    block = Attention(nested)
    layers = [block.q_proj, block.k_proj, block.v_proj]
    expected = torch.cat([bnb.functional.dequantize_4bit(each.weight.data, each.weight.quant_state) for each in layers])
    x = torch.randn(5, 128).bfloat16()
    outputs = [each(x) for each in layers]
    joined = Weights4bit(layers)
    assert torch.equal(joined(torch.bfloat16), expected)
    again = [bnb.functional.dequantize_4bit(each.weight.data, each.weight.quant_state) for each in layers]
    assert torch.equal(torch.cat(again), expected)
    assert all(torch.equal(each(x), output) for each, output in zip(layers, outputs, strict=True))
    assert {each.weight.data.untyped_storage().data_ptr() for each in layers} == {joined.data.data_ptr()}


@pytest.mark.parametrize("kind", [Attention, ChangedInPlace])
@pytest.mark.parametrize("outer", [torch.float32, torch.bfloat16], ids=["float32 input", "bfloat16 input"])
@pytest.mark.parametrize(("nested", "biased"), [(False, False), (True, True)])
def test_a_group_gives_the_values_of_its_layers(kind: Any, outer: torch.dtype, nested: bool, biased: bool) -> None:
    block = adapted(kind(nested, biased))
    separate, shared, groups = separate_and_shared(block, torch.randn(1, 50, 128).to(outer))
    assert sizes(groups) == [3]
    assert {name: each.dtype for name, each in shared.items()} == {name: each.dtype for name, each in separate.items()}
    for name, each in separate.items():
        if name == "x":  # a sum that is rounded once
            assert float((shared[name] - each).norm()) < 1e-2 * float(each.norm())
        else:
            assert_close(shared[name], each, name)


def test_the_gradient_of_the_input_is_as_exact() -> None:
    """Against the same computation in float64, with the dequantized weights."""
    block, x = adapted(Attention()), torch.randn(1, 200, 128)
    exact = torch.zeros_like(x, dtype=torch.float64)
    separate, shared, _ = separate_and_shared(block, x)
    start = 0
    for layer in (block.q_proj, block.k_proj, block.v_proj):
        weight = bnb.functional.dequantize_4bit(
            layer.base_layer.weight.data, layer.base_layer.weight.quant_state
        ).double()
        (a,), (b,) = layer.lora_A.values(), layer.lora_B.values()
        grad = 2 * separate["y"][..., start : start + len(weight)].double() / separate["y"].numel()
        exact += grad.bfloat16().double() @ (weight + 2 * b.weight.double() @ a.weight.double()).detach()
        start += len(weight)
    errors = [float((found["x"] - exact).norm() / exact.norm()) for found in (shared, separate)]
    assert errors[0] <= 1.2 * errors[1] < 1e-2


@pytest.mark.parametrize("kind", [KeysOfAnotherInput, QueryOnly])
def test_a_group_whose_layers_have_other_inputs_is_dissolved(kind: Any) -> None:
    block, x = adapted(kind()), torch.randn(1, 20, 128)
    separate, shared, groups = separate_and_shared(block, x)
    assert_close(shared["y"], separate["y"])
    assert sizes(groups) == [1, 1, 1]
    with torch.autocast("cpu", torch.bfloat16), patched_forwards(fused_lora_forwards(block)), groups.shared():
        assert pass_through(block, x).keys() == separate.keys()  # layers that are not called have no gradient


def test_an_error_in_the_model_dissolves_no_group() -> None:
    block, x = adapted(Attention()), torch.randn(1, 20, 128)
    forwards = list(fused_lora_forwards(block))
    groups = LoraGroups(block, forwards)

    def run_out_of_memory() -> None:
        with groups.shared():
            block.q_proj(x)
            raise MemoryError

    with torch.autocast("cpu", torch.bfloat16), patched_forwards(forwards):
        with pytest.raises(MemoryError):
            run_out_of_memory()
        assert sizes(groups) == [3]
        with groups.shared():
            pass_through(block, x)
    assert sizes(groups) == [3]


@pytest.mark.parametrize(
    ("options", "block"),
    [
        ({"rank_pattern": {"k_proj": 3}, "alpha_pattern": {"k_proj": 6}}, {}),
        ({}, {"sizes": (256, 72, 72)}),  # blocks of the scales' quantization do not end with the weights
        ({"alpha_pattern": {"v_proj": 3}}, {}),
    ],
    ids=["ranks", "blocks", "scaling"],
)
def test_layers_that_differ(options: dict[str, Any], block: dict[str, Any]) -> None:
    separate, shared, groups = separate_and_shared(adapted(Attention(**block), **options), torch.randn(1, 20, 128))
    assert sizes(groups) == ([3] if "rank_pattern" in options else [1, 1, 1])
    for name, each in separate.items():
        assert float((shared[name] - each).norm()) <= 1e-2 * float(each.norm()), name


def test_copies_follow_the_adapter_and_are_not_used_outside() -> None:
    block, x = adapted(Attention()), torch.randn(1, 20, 128)
    forwards = list(fused_lora_forwards(block))
    groups = LoraGroups(block, forwards)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), patched_forwards(forwards):
        for _ in range(2):
            with groups.shared():
                shared = block(x)
            assert_close(shared, block(x))
            for name, parameter in block.named_parameters():
                if "lora" in name:
                    parameter.add_(0.1)


def test_a_step_has_fewer_operators_and_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.profiler import ProfilerActivity, profile

    config = hf.LlamaConfig(
        **{**COMMON, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4},
        num_key_value_heads=4,
    )
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config)
    for name, module in list(model.model.named_modules()):
        if type(module) is torch.nn.Linear:
            parent, _, child = name.rpartition(".")
            setattr(model.model.get_submodule(parent), child, linear_4bit(module.weight.data, True))
    model.is_loaded_in_4bit = True
    model = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear", init_lora_weights=False)
    ).eval()
    pairs = random_pairs(3, count=4)

    def step(share: bool, checkpointing: bool = False) -> tuple[float, dict[str, torch.Tensor], int]:
        accelerator: Any = SimpleNamespace(device=model.device)
        engine = Engine(model, accelerator.device, beta=BETA, loss_on_prompt=True, max_tokens=10_000)
        if not share:
            engine.lora_groups = LoraGroups(model, [])
        engine.start_step(pairs)
        (batch,) = engine.micro_batches(pairs)
        with profile(activities=[ProfilerActivity.CPU]) as profiled, engine.patched_model(batch):
            with torch.autocast("cpu", torch.bfloat16):
                loss = engine.loss_share(model, batch)
            loss.backward()
        operators = {each.key: each.count for each in profiled.key_averages()}
        products = operators["aten::mm"] + operators["aten::addmm_"] + operators["bitsandbytes::dequantize_4bit"]
        if share:
            assert sizes(engine.lora_groups) == [3, 2] * 2 + [1, 1] * 2
        return float(loss.detach()), gradients(model), products

    loss, expected, before = step(False)
    shared_loss, found, after = step(True)
    assert shared_loss == pytest.approx(loss, rel=1e-3)
    difference = sum(float((found[name] - each).norm()) ** 2 for name, each in expected.items())
    assert difference**0.5 < 0.02 * sum(float(each.norm()) ** 2 for each in expected.values()) ** 0.5
    assert after <= 0.62 * before
    model.train().get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    again_loss, again, _ = step(True)
    assert again_loss == shared_loss
    for name, each in found.items():
        torch.testing.assert_close(again[name], each, rtol=2e-2, atol=1e-3 * float(each.abs().max()))
