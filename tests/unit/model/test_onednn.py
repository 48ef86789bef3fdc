"""oneDNN's products equal torch's up to rounding; other operations are torch's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from orpo_cli.model.onednn import add_product, use_mkl, use_onednn


@pytest.fixture
def onednn() -> Iterator[None]:
    if not use_onednn():
        pytest.skip("only of use on AMD processors with AVX-512")
    yield
    use_mkl()


@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_of_a_layer_equal_torchs(onednn: None, bias: bool) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(37, 19, bias=bias)
    reference = torch.nn.Linear(37, 19, bias=bias, dtype=torch.float64)
    reference.load_state_dict(layer.state_dict())
    x = torch.randn(2, 23, 37, requires_grad=True)
    y = x.detach().double().requires_grad_()
    for module, inputs in ((layer, x), (reference, y)):
        module(inputs).square().sum().backward()
    assert torch.allclose(layer(x).double(), reference(y), atol=1e-5)
    pairs = [
        (x.grad, y.grad),
        *((a.grad, b.grad) for a, b in zip(layer.parameters(), reference.parameters(), strict=True)),
    ]
    for mine, exact in pairs:
        assert torch.allclose(mine.double(), exact, rtol=1e-5, atol=1e-4)


def test_transposed_slices_and_other_dtypes_are_right(onednn: None) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(40, 30), torch.randn(50, 30)
    for left, right in ((a, b.T), (a.T, a), (a[::2, 3:17], b[:14]), (a[:, :1], b[:1])):
        assert torch.allclose((left @ right).double(), left.double() @ right.double(), atol=1e-5)
    wide = torch.randn(30, 100)[:, 20:70]  # its rows are not next to each other
    assert torch.allclose((a @ wide).double(), a.double() @ wide.double(), atol=1e-5)
    for bias in (torch.randn(1).expand(50), torch.randn(100)[::2]):  # a bias whose numbers are not next to each other
        assert torch.allclose(torch.addmm(bias, a, b.T).double(), bias.double() + a.double() @ b.double().T, atol=1e-5)
    assert (a.bfloat16() @ b.T.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(torch.addmm(a[:, :1], a, b.T, alpha=2), torch.addmm(a[:, :1], a, b.T, alpha=2))
    assert torch.allclose(torch.addmm(torch.ones(40, 50), a, b.T, beta=3), 3 + a @ b.T, atol=1e-5)
    assert (a[:0] @ b.T).shape == (0, 50)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        a @ b


def test_a_product_is_added_to_a_total(onednn: None) -> None:
    torch.manual_seed(0)
    total, a, b = torch.randn(40, 50), torch.randn(40, 30), torch.randn(50, 30)
    exact = total.double() + a.double() @ b.double().T
    for right in (b.T, b.T.contiguous()):
        assert torch.allclose(add_product(total.clone(), a, right).double(), exact, atol=1e-5)
    assert torch.allclose(add_product(total.double(), a.double(), b.double().T), exact)  # torch's


GROWTH = """
import ctypes, psutil, torch
from orpo_cli.model.onednn import use_onednn
assert use_onednn()
def resident():
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return psutil.Process().memory_info().rss / 1e6
x, weights = torch.randn(800, 768), [torch.randn(width, 768) for width in (64, 192, 320)]
x[:9] @ weights[0].t()
before = resident()
for rows in range(100, 500):
    for weight in weights:
        x[:rows] @ weight.t()
print(resident() - before)
"""


def test_products_of_many_shapes_keep_little_memory(onednn: None) -> None:
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 120  # MB; more than 300 where oneDNN keeps all


def test_use_mkl_undoes_use_onednn() -> None:
    before = torch.randn(64, 64) @ torch.eye(64)
    use_onednn()
    use_mkl()
    assert torch.equal(before @ torch.eye(64), before)
