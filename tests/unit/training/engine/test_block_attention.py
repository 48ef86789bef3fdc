"""Attention by blocks against attention with all scores in float64, forward and backward, and its memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.allocated_storages import AllocatedStorages

from orpo_cli.training.engine import attention_blocks, block_attention
from orpo_cli.training.engine.attention_blocks import BlockPlan, Segment, attention_window

Allowed = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
HEADS, KV_HEADS, HEAD_DIM = 6, 2, 8
CPU = torch.device("cpu")
# A tree: four segments after a common beginning, two of them behind another one
SEGMENTS = [
    Segment(slice(0, 20)),
    Segment(slice(20, 90), (slice(0, 20),)),
    Segment(slice(90, 220), (slice(0, 20), slice(20, 90))),
    Segment(slice(220, 300), (slice(0, 20),)),
    Segment(slice(300, 450), (slice(0, 20), slice(220, 300))),
]


def causal(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    return keys[None] <= queries[:, None]


def window(size: int) -> Allowed:
    return lambda queries, keys: causal(queries, keys) & (keys[None] > queries[:, None] - size)


def chunks(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    return causal(queries, keys) & (keys[None] // 50 == queries[:, None] // 50)


MASKS: dict[str, tuple[Allowed, int | None]] = {
    "causal": (causal, None),
    "window": (window(70), 70),
    "short window": (window(7), 7),
    "chunks": (chunks, 50),
}


def dense(
    query: Any, key: Any, value: Any, segments: list[Segment], allowed: Allowed, softcap: float | None, sinks: Any
) -> torch.Tensor:
    """Attention with a mask of the whole row."""
    length = query.shape[2]
    mask = torch.zeros(length, length, dtype=torch.bool)
    for segment in segments:
        rows = torch.cat([torch.arange(each.start, each.stop) for each in (*segment.ancestors, segment.rows)])
        positions = torch.arange(len(rows))
        own = segment.rows.stop - segment.rows.start
        mask[segment.rows.start : segment.rows.stop, rows] = allowed(positions[-own:], positions)
    key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], 1) for each in (key, value))
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is None:
        return (scores.softmax(-1) @ value).transpose(1, 2)
    scores = torch.cat((scores, sinks.view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)), -1)
    return (scores.softmax(-1)[..., :-1] @ value).transpose(1, 2)


def inputs(length: int, value_dim: int = HEAD_DIM, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = ((HEADS, HEAD_DIM), (KV_HEADS, HEAD_DIM), (KV_HEADS, value_dim))
    return [torch.randn(1, length, *shape, dtype=dtype).transpose(1, 2).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("value_dim", [8, 12])
@pytest.mark.parametrize("small_calls", [False, True])
@pytest.mark.parametrize("has_sinks", [False, True])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("name", MASKS)
def test_blocks_give_the_outputs_and_gradients_of_all_scores(
    name: str,
    softcap: float | None,
    has_sinks: bool,
    small_calls: bool,
    value_dim: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if small_calls:
        monkeypatch.setattr(attention_blocks, "MAX_SCORES_OF_ONE_CALL", 0)
        monkeypatch.setattr(block_attention, "MAX_STORED_SCORES", 20_000)
        monkeypatch.setattr(attention_blocks, "MAX_MASKED_SCORES", 9_000)
    allowed, size = MASKS[name]
    tensors = inputs(450, value_dim)
    sinks = torch.randn(HEADS, dtype=torch.float64, requires_grad=True) if has_sinks else None
    plan = BlockPlan(SEGMENTS, allowed, attention_window(allowed, size, 450, CPU), CPU)
    found = block_attention.block_attention(*tensors, plan, softcap=softcap, sinks=sinks)
    expected = dense(*tensors, SEGMENTS, allowed, softcap, sinks)
    gradient = torch.randn_like(expected)
    wanted = [*tensors, *([sinks] if sinks is not None else [])]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    pairs = zip(
        torch.autograd.grad(found, wanted, gradient), torch.autograd.grad(expected, wanted, gradient), strict=True
    )
    for own, reference in pairs:
        torch.testing.assert_close(own, reference, rtol=0, atol=1e-13)


def test_a_window_is_recognized_by_its_mask() -> None:
    assert attention_window(causal, None, 300, CPU) == 0
    assert attention_window(window(70), 70, 300, CPU) == 70
    assert attention_window(window(70), 71, 300, CPU) is None
    assert attention_window(chunks, 50, 300, CPU) is None
    assert attention_window(chunks, 50, 50, CPU) == 50  # of one chunk


def test_half_precision_is_as_close_as_one_call() -> None:
    tensors = [each.detach().bfloat16().requires_grad_() for each in inputs(450)]
    plan = BlockPlan(SEGMENTS, causal, 0, CPU)
    expected = dense(*(each.double() for each in tensors), SEGMENTS, causal, None, None)
    found = block_attention.block_attention(*tensors, plan)
    assert (found.double() - expected).abs().max() < 2 * torch.finfo(torch.bfloat16).eps
    gradient = torch.randn_like(expected)
    pairs = zip(
        torch.autograd.grad(found, tensors, gradient.bfloat16()),
        torch.autograd.grad(expected, tensors, gradient),
        strict=True,
    )
    for own, reference in pairs:
        assert (own.double() - reference).abs().max() < 0.02 * reference.abs().max()


@pytest.mark.parametrize(("name", "softcap"), [("causal", None), ("window", None), ("chunks", None), ("causal", 5.0)])
def test_twice_the_tokens_take_twice_the_memory(
    name: str, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_attention, "MAX_STORED_SCORES", 1 << 18)
    monkeypatch.setattr(attention_blocks, "MAX_MASKED_SCORES", 1 << 16)
    allowed, size = MASKS[name]
    peaks = []
    for length in (256, 512, 1024):
        tensors = inputs(length, dtype=torch.float32)
        half = length // 2
        segments = [Segment(slice(0, half)), Segment(slice(half, length), (slice(0, half // 2),))]
        with AllocatedStorages() as counter:
            plan = BlockPlan(segments, allowed, attention_window(allowed, size, length, CPU), CPU)
            output = block_attention.block_attention(*tensors, plan, softcap=softcap)
            output.sum().backward()
        peaks.append(counter.most)
    assert peaks[2] < 2.2 * peaks[1] < 2.2 * 2.2 * peaks[0]
