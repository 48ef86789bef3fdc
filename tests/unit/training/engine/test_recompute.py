"""Recomputation in backward: recomputable tensors are not kept, and gradients are bit-identical."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.architectures import PACKED, build
from support.steps import BETA, random_pairs
from torch.multiprocessing.reductions import StorageWeakRef

from orpo_cli.training.engine import packed_step
from orpo_cli.training.engine.recompute import cast_once, recomputable, recompute_in_backward


def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2 + 1


class Kept(torch.autograd.Function):
    """x times w, which keeps both."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        x, w = ctx.saved_tensors
        return grad * w, grad * x


def test_a_recomputable_tensor_is_freed_and_recomputed_once() -> None:
    calls = []

    def counted(x: torch.Tensor) -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        return doubled(x)

    x, w = torch.randn(5).double().requires_grad_(), torch.randn(5).double().requires_grad_()
    with recompute_in_backward():
        y = recomputable(counted, x)
        total = Kept.apply(y, w).sum() + Kept.apply(y.view(5, 1)[:, 0], w).sum()
    storage = StorageWeakRef(y.untyped_storage())
    del y
    assert storage.expired()
    total.backward()
    assert calls == [True, False]
    torch.testing.assert_close(w.grad, 2 * doubled(x).detach(), rtol=0, atol=0)
    torch.testing.assert_close(x.grad, 4 * w.detach(), rtol=0, atol=0)


def test_a_tensor_at_the_address_of_a_freed_one_is_not_confused_with_it() -> None:
    x, w = torch.randn(1000).requires_grad_(), torch.ones(1000).requires_grad_()
    with recompute_in_backward():
        total = torch.zeros(())
        for number in range(20):  # the allocator reuses the same addresses
            total = total + Kept.apply(recomputable(doubled, x), w).sum() * 0
            total = total + Kept.apply(torch.full((1000,), float(number)), w).sum()
    total.backward()
    assert torch.equal(w.grad, torch.full((1000,), float(sum(range(20)))))


def test_a_tensor_changed_in_place_is_saved() -> None:
    x, w = torch.randn(5).requires_grad_(), torch.randn(5).requires_grad_()
    with recompute_in_backward():
        y = recomputable(doubled, x)
        y.mul_(3)
        Kept.apply(y, w).sum().backward()
    assert torch.equal(w.grad, 3 * doubled(x).detach())


def test_inputs_are_released_without_pending_references() -> None:
    x = torch.randn(5).requires_grad_()
    with recompute_in_backward():
        inputs = x * 2
        storage = StorageWeakRef(inputs.untyped_storage())
        recomputable(doubled, inputs)
        del inputs
        recomputable(doubled, x)
        assert storage.expired()


def test_one_cast_copy_is_shared_and_neither_it_nor_its_source_is_kept() -> None:
    calls = []

    def counted(x: torch.Tensor) -> torch.Tensor:
        calls.append(True)
        return doubled(x)

    x = torch.randn(5).requires_grad_()
    ws = [torch.randn(5).bfloat16().requires_grad_() for _ in range(3)]
    with recompute_in_backward():
        y = recomputable(counted, x)
        narrow = cast_once(y, torch.bfloat16)
        assert cast_once(y, torch.bfloat16) is narrow
        total = sum(Kept.apply(cast_once(y, torch.bfloat16), w).float().sum() for w in ws)
        other = cast_once(recomputable(doubled, x), torch.bfloat16)
        assert other is not narrow
    storages = [StorageWeakRef(each.untyped_storage()) for each in (y, narrow)]
    del y, narrow
    assert all(storage.expired() for storage in storages)
    total.backward()
    assert len(calls) == 2
    for w in ws:
        assert torch.equal(w.grad, doubled(x).detach().bfloat16())


def test_a_changed_tensor_is_cast_again() -> None:
    x = torch.randn(5).requires_grad_()
    with recompute_in_backward():
        y = x * 2
        first = cast_once(y, torch.bfloat16)
        y.mul_(2)
        assert torch.equal(cast_once(y, torch.bfloat16), 2 * first)


def test_without_gradients_nothing_is_registered() -> None:
    x, w = torch.randn(5), torch.randn(5).requires_grad_()
    with recompute_in_backward():
        y = recomputable(doubled, x)
        result = Kept.apply(y, w)
    storage = StorageWeakRef(y.untyped_storage())
    del y
    assert not storage.expired()
    result.sum().backward()
    assert torch.equal(w.grad, doubled(x))


@pytest.mark.parametrize("adapter", [True, False])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "olmo2", "gpt2"])
def test_recomputation_leaves_gradients_bit_identical(
    name: str, adapter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradients() -> dict[str, torch.Tensor]:
        model = build(PACKED[name](), torch.float32)
        if adapter:
            torch.manual_seed(1)
            model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
        model.eval()  # without dropout
        accelerator = SimpleNamespace(num_processes=1, device=model.device)
        engine = packed_step.Engine(model, accelerator.device, beta=BETA, loss_on_prompt=True, max_tokens=100)
        pairs = random_pairs(3)
        engine.start_step(pairs)
        for part in engine.micro_batches(pairs):
            with engine.patched_model(part):
                engine.loss_share(model, part).backward()
        return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}

    again = gradients()
    monkeypatch.setattr(packed_step, "recompute_in_backward", nullcontext)
    kept = gradients()
    assert again.keys() == kept.keys()
    assert all(torch.equal(again[name], kept[name]) for name in kept)
