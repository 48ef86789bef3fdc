"""Float32 layers with the same input in one function: PEFT's values and gradients, in fewer products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from support.architectures import PACKED, build
from support.steps import gradients, random_pairs
from torch.profiler import profile

from orpo_cli.model.onednn import use_mkl, use_onednn
from orpo_cli.training.engine.fused_lora import fused_lora_forwards
from orpo_cli.training.engine.lora_groups import LoraGroups
from orpo_cli.training.engine.packed_step import Engine, patched_forwards
from orpo_cli.training.engine.shared_input import SharedInputGroup

NAMES = ("q_proj", "k_proj", "v_proj")


class Attention(torch.nn.Module):
    """Projections of one input."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        for name, size in zip(NAMES, (48, 16, 16), strict=True):
            setattr(self, name, torch.nn.Linear(32, size, bias=name != "v_proj", dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([getattr(self, name)(x) for name in NAMES], dim=-1)


class ChangedInPlace(Attention):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([getattr(self, name)(x).mul_(2) for name in NAMES], dim=-1)


class KeysOfAnotherInput(Attention):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.q_proj(x), self.k_proj(x * 2), self.v_proj(x * 2)), dim=-1)


class QueryOnly(Attention):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.q_proj(x)  # type: ignore[no-any-return]


def adapted(block: torch.nn.Module, **options: Any) -> Any:
    torch.manual_seed(0)
    block = inject_adapter_in_model(
        LoraConfig(**{"r": 6, "lora_alpha": 12, "target_modules": list(NAMES), **options}), block
    )
    for name, parameter in block.named_parameters():
        parameter.requires_grad_("lora" in name)
        if "lora" in name:
            parameter.data = torch.randn(parameter.shape).div(8).to(next(block.parameters()).dtype)
    return block


def pass_through(block: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.clone().requires_grad_()
    y = block(x)
    (y**2).mean().backward()
    assert x.grad is not None
    return {"y": y.detach(), "x": x.grad, **gradients(block)}


def group_sizes(groups: LoraGroups) -> list[int]:
    return [len(each.forwards) for each in dict.fromkeys(groups.groups.values())]


def shared(block: Any, x: torch.Tensor) -> tuple[dict[str, torch.Tensor], LoraGroups]:
    forwards = list(fused_lora_forwards(block))
    groups = LoraGroups(block, forwards)
    with patched_forwards(forwards), groups.shared():
        return pass_through(block, x), groups


@pytest.mark.parametrize("kind", [Attention, ChangedInPlace])
@pytest.mark.parametrize("options", [{}, {"rank_pattern": {"k_proj": 3}, "alpha_pattern": {"k_proj": 6}}])
def test_a_group_gives_pefts_values_and_gradients(kind: Any, options: dict[str, Any]) -> None:
    block, x = adapted(kind(), **options), torch.randn(2, 7, 32, dtype=torch.float64)
    expected = pass_through(block, x)
    found, groups = shared(block, x)
    assert group_sizes(groups) == [3]
    assert found.keys() == expected.keys()
    for name, each in expected.items():
        assert float((found[name] - each).norm()) <= 1e-12 * float(each.norm()), name


@pytest.mark.parametrize("kind", [KeysOfAnotherInput, QueryOnly])
def test_a_group_whose_layers_have_other_inputs_is_dissolved(kind: Any) -> None:
    block, x = adapted(kind()), torch.randn(2, 7, 32, dtype=torch.float64)
    expected = pass_through(block, x)
    found, groups = shared(block, x)
    assert group_sizes(groups) == [1, 1, 1]
    for name, each in expected.items():
        assert float((found[name] - each).norm()) <= 1e-12 * float(each.norm()), name


@pytest.mark.parametrize("difference", ["scaling", "trained weight", "half precision"])
def test_layers_that_differ_stay_separate(difference: str) -> None:
    dtype = torch.bfloat16 if difference == "half precision" else torch.float64
    options: dict[str, Any] = {"alpha_pattern": {"v_proj": 3}} if difference == "scaling" else {}
    block = adapted(Attention(dtype), **options)
    if difference == "trained weight":
        block.k_proj.base_layer.weight.requires_grad_()
    groups = LoraGroups(block, list(fused_lora_forwards(block)))
    assert group_sizes(groups) == [1, 1, 1]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_has_fewer_products_and_the_same_gradients(checkpointing: bool) -> None:
    from peft import get_peft_model
    from torch.profiler import ProfilerActivity, profile

    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    model: Any = get_peft_model(build(PACKED["llama"](), torch.float64), lora)
    if checkpointing:
        model.train().get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    pairs = random_pairs(3, count=3)
    layers = model.config.num_hidden_layers

    def step(share: bool) -> tuple[float, dict[str, torch.Tensor], int]:
        engine = Engine(model, torch.device("cpu"), beta=0.1, loss_on_prompt=True, max_tokens=10_000)
        if not share:
            engine.lora_groups = LoraGroups(model, [])
        engine.start_step(pairs)
        (batch,) = engine.micro_batches(pairs)
        with profile(activities=[ProfilerActivity.CPU]) as profiled, engine.patched_model(batch):
            loss = engine.loss_share(model, batch)
            loss.backward()
        if share:
            groups = dict.fromkeys(engine.lora_groups.groups.values())
            assert sum(isinstance(each, SharedInputGroup) for each in groups) == 2 * layers
        products = {each.key: each.count for each in profiled.key_averages()}["aten::mm"]
        return float(loss.detach()), gradients(model), products

    loss, expected, before = step(False)
    shared_loss, found, after = step(True)
    assert shared_loss == pytest.approx(loss, rel=1e-12)
    # x A^T, u A and u^T x once in place of three times and twice; the input of the first layer has no gradient
    assert before - after >= 9 * layers - 2
    for name, each in expected.items():
        assert float((found[name] - each).norm()) <= 1e-11 * float(each.norm()), name


@pytest.mark.parametrize("names", [NAMES, NAMES[:1]])
def test_every_product_with_a_weight_uses_onednn_where_it_is_faster(names: tuple[str, ...]) -> None:
    """In place, torch would use MKL: half the speed of a step on such a processor."""
    if not use_onednn():
        pytest.skip("only of use on AMD processors with AVX-512")
    try:
        block = adapted(Attention(torch.float32), r=2, target_modules=list(names))
        with profile(record_shapes=True) as profiled:
            shared(block, torch.randn(2, 25, 32))
    finally:
        use_mkl()
    smallest = [
        min(size for shape in each.input_shapes for size in shape)
        for each in profiled.events()
        if each.name == "aten::addmm_"
    ]
    assert smallest
    assert max(smallest) <= 2 * len(names)  # only products with an adapter
