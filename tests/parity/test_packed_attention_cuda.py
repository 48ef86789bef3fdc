"""CUDA attention inputs checked on a CPU: FlexAttention's mask, and the sequences of variable-length attention."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import setuptools  # noqa: F401  # torch's compiler imports it late, which fails once something has imported distutils
import torch
from support.architectures import PACKED, build
from support.steps import assert_gradients_equal, gradients, packed_step, random_pairs, related_pairs
from transformers import AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

from orpo_cli.training.engine import packed_attention, packed_attention_cuda
from orpo_cli.training.engine.packed_attention_cuda import CudaMask


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[CudaMask]]:
    """Models get CUDA masks from now on; the list collects them."""
    torch._dynamo.reset()  # otherwise compiled sizes of one test become dynamic in the next
    used: list[CudaMask] = []

    def mask(*, mask_function: Any = causal_mask_function, local_size: int | None = None, **_: Any) -> CudaMask:
        used.append(CudaMask(packed_attention._current.get(), mask_function, local_size))
        return used[-1]

    monkeypatch.setitem(AttentionMaskInterface._global_mapping, packed_attention.NAME, mask)
    return used


def reference(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor, max_q: int,
    max_k: int, *, scale: float | None, window_size: tuple[int, int],
) -> torch.Tensor:  # fmt: skip
    """torch's varlen_attn by its documentation: causal from the ends of queries and keys; (tokens, heads, size)."""
    outputs = []
    left, right = window_size
    assert right == 0
    for (q0, q1), (k0, k1) in zip(cu_q.unfold(0, 2, 1).tolist(), cu_k.unfold(0, 2, 1).tolist(), strict=True):
        assert 0 < q1 - q0 <= max_q
        assert 0 < k1 - k0 <= max_k
        rows = torch.arange(q1 - q0)[:, None] + (k1 - k0) - (q1 - q0)
        columns = torch.arange(k1 - k0)[None]
        seen = columns <= rows
        if left >= 0:
            seen &= columns >= rows - left
        q, k, v = (each.transpose(0, 1)[None] for each in (query[q0:q1], key[k0:k1], value[k0:k1]))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, seen, scale=scale, enable_gqa=True)
        outputs.append(out[0].transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
@pytest.mark.parametrize("name", ["llama", "mistral-window", "gemma2"])
def test_the_flex_attention_mask_gives_the_loss_of_the_cpu(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FlexAttention has no backward pass on a CPU; its forward pass shows the mask. Blocks are computed from a few rows at a time."""
    model = build(PACKED[name](), torch.float32).eval()
    pairs = [*random_pairs(len(name), count=8), *related_pairs(len(name))]
    with torch.no_grad():
        expected = packed_step(model, pairs)[0]
        masks = request.getfixturevalue("masks")
        monkeypatch.setattr(packed_attention_cuda, "MASK_ROWS", 128)
        assert packed_step(model, pairs)[0] == pytest.approx(expected, rel=1e-5)
    assert max(mask.batch.input_ids.shape[1] for mask in masks) > 2 * packed_attention_cuda.BLOCK


@pytest.mark.parametrize("name", ["llama", "mistral-window", "qwen2-window", "gemma3", "cohere2", "smollm3"])
def test_variable_length_sequences_give_the_gradients_of_the_cpu(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(PACKED[name](), torch.float64).eval()
    pairs = [*random_pairs(len(name)), *related_pairs(len(name))]
    expected = packed_step(model, pairs)[0]
    trl_gradients = gradients(model)
    masks = request.getfixturevalue("masks")
    monkeypatch.setattr(packed_attention_cuda, "_varlen_attn", lambda: reference)
    monkeypatch.setattr(packed_attention_cuda, "_flash_supports", lambda query, value: True)
    assert packed_step(model, pairs)[0] == pytest.approx(expected, rel=1e-9)
    assert_gradients_equal(gradients(model), trl_gradients, 1e-9)
    assert all(mask.window is not None and "block_mask" not in vars(mask) for mask in masks)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_a_chunked_mask_goes_to_flex_attention(masks: list[CudaMask]) -> None:
    """Llama 4's: a window of the same length would be another mask."""
    model = build(PACKED["llama4"](), torch.float32).eval()
    with torch.no_grad():
        packed_step(model, random_pairs(6))
    assert {mask.window for mask in masks} == {0, None}


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_a_window_longer_than_all_sequences_is_a_window_for_flash_attention(masks: list[CudaMask]) -> None:
    config = PACKED["mistral-window"]()
    config.sliding_window = 4096
    model = build(config, torch.float32).eval()
    with torch.no_grad():
        packed_step(model, random_pairs(6))
    assert {mask.window for mask in masks} == {4096}
