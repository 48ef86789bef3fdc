"""Attention with oneDNN's products: the values and gradients of softmax attention, with causal and with all keys."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from orpo_cli.model.onednn import use_mkl, use_onednn
from orpo_cli.training.engine import onednn_attention
from orpo_cli.training.engine.attention_blocks import BlockPlan, Segment
from orpo_cli.training.engine.block_attention import block_attention

SCALING = 0.3


def random_heads(heads: int, length: int, dtype: torch.dtype) -> torch.Tensor:
    """(1, heads, length, 8) as a model has it: the heads of a token are next to each other."""
    return torch.randn(1, length, heads, 8, dtype=dtype).transpose(1, 2)


def scores_of_all(query: torch.Tensor, key: torch.Tensor, causal: bool) -> torch.Tensor:
    scores = query @ key.repeat_interleave(query.shape[1] // key.shape[1], 1).transpose(-1, -2) * SCALING
    return (
        scores.masked_fill(scores.new_ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
        if causal
        else scores
    )


@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
@pytest.mark.parametrize(
    ("queries", "keys", "causal"), [(300, 300, True), (128, 128, True), (5, 400, False), (200, 77, False)]
)
def test_outputs_and_gradients_are_those_of_softmax(
    heads: tuple[int, int], queries: int, keys: int, causal: bool
) -> None:
    torch.manual_seed(0)
    query = random_heads(heads[0], queries, torch.float64).requires_grad_()
    key, value = (random_heads(heads[1], keys, torch.float64).requires_grad_() for _ in range(2))
    scores = scores_of_all(query, key, causal)
    expected = scores.softmax(-1) @ value.repeat_interleave(heads[0] // heads[1], 1)
    gradient = torch.randn_like(expected)
    of_leaves = torch.autograd.grad(expected, (query, key, value), gradient)
    with torch.no_grad():
        output, log_sum = onednn_attention.attend(query, key, value, causal, SCALING)
        found = onednn_attention.attend_backward(gradient, query, key, value, output, log_sum, causal, SCALING)
    assert torch.allclose(output, expected, atol=1e-12)
    assert torch.allclose(log_sum, scores.logsumexp(-1), atol=1e-12)
    for mine, exact in zip(found, of_leaves, strict=True):
        assert torch.allclose(mine, exact, atol=1e-11)


def test_a_row_of_long_segments_is_computed_with_onednn_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt and two completions: the prompt is causal, and the completions also see all of it."""
    torch.manual_seed(0)
    lengths = onednn_attention.MIN_KEYS + 40, onednn_attention.MIN_KEYS, onednn_attention.MIN_KEYS + 9
    ends = [sum(lengths[: n + 1]) for n in range(3)]
    prompt, *completions = (slice(end - length, end) for end, length in zip(ends, lengths, strict=True))
    segments = [Segment(prompt), *(Segment(each, (prompt,)) for each in completions)]
    plan = BlockPlan(segments, lambda q, k: k <= q[:, None], 0, torch.device("cpu"))
    inputs = [random_heads(heads, ends[-1], torch.float32) for heads in (6, 2, 2)]
    results = []
    for onednn in (False, True):
        monkeypatch.setattr("orpo_cli.model.onednn.in_use", lambda onednn=onednn: onednn)
        query, key, value = (each.clone().requires_grad_() for each in inputs)
        output = block_attention(query, key, value, plan, scaling=SCALING)
        gradients = torch.autograd.grad(output.square().sum(), (query, key, value))
        results.append([output.detach(), *gradients])
        if not onednn:
            monkeypatch.setattr("orpo_cli.training.engine.block_attention.flash", None)
            monkeypatch.setattr("orpo_cli.training.engine.block_attention.flash_backward", None)
    for flash, mine in zip(*results, strict=True):
        assert torch.allclose(mine, flash, atol=2e-5)


def test_it_is_used_only_where_onednn_is(monkeypatch: pytest.MonkeyPatch) -> None:
    use_mkl()
    query = random_heads(2, 3, torch.float32)
    assert not onednn_attention.is_faster(query, 10_000)
    try:
        in_use = use_onednn()
        assert onednn_attention.is_faster(query, 10_000) == in_use
        assert not onednn_attention.is_faster(query, 100)
        assert not onednn_attention.is_faster(query.double(), 10_000)
    finally:
        use_mkl()


def test_a_trace_leaves_no_fake_tensor_behind() -> None:
    """A plan traces the model with tensors without content, in the process that trains next."""
    arguments = torch.randn(1, 2, 40, 8), torch.randn(1, 1, 40, 8), torch.randn(1, 1, 40, 8), True, 0.3
    with FakeTensorMode() as mode:
        onednn_attention.attend(*(mode.from_tensor(each) for each in arguments[:3]), True, 0.3)
    output, log_sum = onednn_attention.attend(*arguments)
    assert torch.isfinite(output).all()
    assert type(log_sum) is torch.Tensor
