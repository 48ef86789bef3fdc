"""Fused rotary embedding: transformers' values and gradients, and other rotary functions left as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.architectures import PACKED, build
from support.steps import assert_gradients_equal, gradients, random_pairs
from transformers.models.cohere.modeling_cohere import apply_rotary_pos_emb as neighbouring_elements
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb as part_of_a_head
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as halves

from orpo_cli.training.engine import fused_rotary
from orpo_cli.training.engine.fused_rotary import FusedRotary, RotaryEmbedding
from orpo_cli.training.engine.packed_step import Engine


def inputs(size: int = 16, rotated: int = 16) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(2, 5, 4, size), (2, 5, 2, size)]  # as a projection gives them, tokens before heads
    q, k = (torch.randn(shape, dtype=torch.float64).transpose(1, 2) for shape in shapes)
    return [q, k, *(torch.randn(2, 5, rotated, dtype=torch.float64) for _ in range(2))]


def outputs_and_gradients(
    function: Any, q: torch.Tensor, k: torch.Tensor, *factors: torch.Tensor
) -> list[torch.Tensor]:
    q, k = (each.detach().requires_grad_() for each in (q, k))
    outputs = function(q, k, *factors)
    torch.stack([(each**3).sum() for each in outputs]).sum().backward()
    assert q.grad is not None
    assert k.grad is not None
    return [*outputs, q.grad, k.grad]


def test_values_and_gradients_are_those_of_transformers() -> None:
    expected = outputs_and_gradients(halves, *inputs())
    found = outputs_and_gradients(FusedRotary(None), *inputs())  # type: ignore[arg-type]
    for output, each in zip(found, expected, strict=True):
        torch.testing.assert_close(output, each, rtol=1e-12, atol=1e-12)


def test_inputs_that_it_does_not_compute_go_to_the_original() -> None:
    q, k, cos, sin = inputs(rotated=8)
    for output, each in zip(FusedRotary(part_of_a_head)(q, k, cos, sin), part_of_a_head(q, k, cos, sin), strict=True):
        assert torch.equal(output, each)
    q, k, cos, sin = (each.bfloat16() for each in inputs())
    for output, each in zip(FusedRotary(halves)(q, k, cos, sin), halves(q, k, cos, sin), strict=True):
        assert torch.equal(output, each)


def test_a_function_that_rotates_neighbouring_elements_is_not_replaced() -> None:
    assert fused_rotary._computes_the_same(halves)
    assert not fused_rotary._computes_the_same(neighbouring_elements)


@pytest.mark.parametrize("name", ["llama", "gpt-neox"])
def test_a_step_has_the_same_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(PACKED[name](), torch.float64).eval()
    pairs, calls = random_pairs(0, count=4), []
    forward = RotaryEmbedding.forward
    monkeypatch.setattr(RotaryEmbedding, "forward", staticmethod(lambda *given: calls.append(1) or forward(*given)))

    def step(fused: bool) -> dict[str, torch.Tensor]:
        engine = Engine(model, torch.device("cpu"), beta=0.1, loss_on_prompt=True, max_tokens=120)
        if not fused:
            engine.rotary_functions = []
        calls.clear()  # those of the comparison with the model's function
        engine.start_step(pairs)
        for part in engine.micro_batches(pairs):
            with engine.patched_model(part):
                engine.loss_share(model, part).backward()
        return gradients(model)

    expected = step(False)
    assert not calls
    assert_gradients_equal(step(True), expected, 1e-11)
    assert bool(calls) == (name == "llama")
