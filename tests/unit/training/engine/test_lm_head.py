"""Language-model head of the engine under FSDP2: the tiled path, and the hooks that gather its weight for backward."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from support.architectures import PACKED, build
from support.steps import assert_gradients_equal, gradients, packed_step, random_pairs
from torch.distributed.fsdp import fully_shard

from orpo_cli.training.engine.lm_head import _is_plain_linear, _mean_row, logit_transform
from orpo_cli.training.engine.packed_attention import attention_configs, use_packed_attention
from orpo_cli.training.engine.packed_step import forward_packed
from orpo_cli.training.engine.packing import pack


@pytest.fixture
def process_group() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_the_loss_depends_on_the_output_of_the_model(name: str) -> None:
    model = build(PACKED[name]())
    batch = pack(random_pairs(2), True)
    head, calls = model.get_output_embeddings(), list[str]()
    head.register_forward_hook(lambda *given: given[-1].register_hook(lambda _: calls.append("head")) and None)
    model.register_forward_hook(lambda *given: given[-1].logits.register_hook(lambda _: calls.append("model")) and None)
    with use_packed_attention(attention_configs(model), batch):
        output = forward_packed(model, head, logit_transform(model), batch)
    output.log_probs.sum().backward()  # type: ignore[no-untyped-call]
    assert sorted(calls) == ["head", "model"]


@pytest.mark.parametrize("name", ["llama", "llama-tied-bias", "gemma2"])
def test_a_head_in_a_resharded_group_gives_the_same_gradients(name: str, process_group: None) -> None:
    expected_model, model = build(PACKED[name]()), build(PACKED[name]())
    pairs = random_pairs(4)
    expected_loss, expected_metrics, _ = packed_step(expected_model, pairs, budget=60)
    head, embeddings, norm = model.get_output_embeddings(), model.get_input_embeddings(), model.model.norm
    tied = head.weight is embeddings.weight
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard([norm, head, *([embeddings] if tied else [])], reshard_after_forward=True)
    fully_shard(model)
    assert type(head) is not torch.nn.Linear
    assert _is_plain_linear(head)
    loss, metrics, _ = packed_step(model, pairs, budget=60)
    assert loss == pytest.approx(expected_loss, rel=1e-7)  # norms are fused for unsharded weights only
    assert metrics == pytest.approx(expected_metrics, rel=1e-7, abs=1e-7)
    sharded = {key: gradient.full_tensor() for key, gradient in gradients(model).items()}
    assert_gradients_equal(sharded, gradients(expected_model))


def test_a_linear_head_with_another_forward_is_not_tiled() -> None:
    class Scaled(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) * 2

    assert _is_plain_linear(torch.nn.Linear(2, 3))
    assert not _is_plain_linear(Scaled(2, 3))


def test_the_mean_row_of_a_frozen_weight_is_computed_once_and_follows_its_changes() -> None:
    weight = torch.nn.Parameter(torch.randn(6, 4), requires_grad=False)
    first = _mean_row(weight)
    assert _mean_row(weight) is first
    with torch.no_grad():
        weight.add_(1)
    torch.testing.assert_close(_mean_row(weight), first + 1)
    weight.requires_grad_()
    trained = _mean_row(weight)
    weight.data = weight.data * 2  # as optimizers may, without a new version
    torch.testing.assert_close(_mean_row(weight), trained * 2)
