"""oneDNN for float32 matrix products on AMD CPUs with AVX-512.

torch uses MKL, which uses AVX2 there: half the speed of the CPU. oneDNN, which torch also contains, uses AVX-512. Both compute in
float32, and differ by rounding. On Intel CPUs MKL is as fast and stays in use.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# oneDNN compiles a product for each shape, and keeps 1,024 of them, 0.3 MB each. A micro-batch has about 60 shapes.
CACHES, KEPT_PRODUCTS = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"), "128"

_overrides: list[Any] = []  # in effect as long as they are referenced


def use_onednn() -> bool:
    """Use oneDNN for float32 matrix products on the CPU, forward and backward. Returns whether it is in use."""
    if not _overrides and _is_faster():
        for cache in CACHES:
            os.environ.setdefault(cache, KEPT_PRODUCTS)
        _overrides.append(_override())
    return bool(_overrides)


def use_mkl() -> None:
    """Undo ``use_onednn``."""
    while _overrides:
        _overrides.pop()._destroy()


def in_use() -> bool:
    """Whether oneDNN computes the products."""
    return bool(_overrides)


def add_product(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """``total`` + ``left`` @ ``right``, with oneDNN where it is in use; may change ``total``.

    ``total.addmm_`` always uses MKL: the kernels of ``use_onednn`` replace no operator that works in place.
    """
    import torch

    if _overrides and total.is_cpu and total.dtype is torch.float32 and left.numel() > 0:
        result: Tensor = torch.ops.mkldnn._linear_pointwise.binary(left, total, _dense(right).t(), None, "add")
        return result
    return total.addmm_(left, right)


def _is_faster() -> bool:
    import torch

    cpu, mkl, onednn = torch.backends.cpu, torch.backends.mkl, torch.backends.mkldnn
    if not (cpu.get_cpu_capability() == "AVX512" and mkl.is_available() and onednn.is_available()):  # type: ignore[no-untyped-call]
        return False
    return _vendor() == "AuthenticAMD" and hasattr(torch.library, "get_kernel")


def _vendor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


def _dense(matrix: Tensor) -> Tensor:
    """The matrix, copied where its rows are not next to each other: oneDNN is a thousand times slower with them."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()


def _override() -> Any:
    """Kernels for ``aten::mm`` and ``aten::addmm`` on the CPU: oneDNN's for float32 matrices, torch's for all others."""
    import torch

    product = torch.ops.mkldnn._linear_pointwise
    plain_mm, plain_addmm = (torch.library.get_kernel(name, "CPU") for name in ("aten::mm", "aten::addmm"))

    def suits(left: Tensor, right: Tensor) -> bool:
        return left.dtype is torch.float32 is right.dtype and left.numel() > 0 and right.numel() > 0

    def mm(keys: Any, left: Tensor, right: Tensor) -> Any:
        if suits(left, right) and left.shape[1] == right.shape[0]:
            return product(left, _dense(right).t(), None, "none", [], "")
        return plain_mm.call_boxed(keys, left, right)

    def addmm(keys: Any, bias: Tensor, left: Tensor, right: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Any:
        plain = suits(left, right) and left.shape[1] == right.shape[0] and beta == 1 and alpha == 1
        if plain and bias.dtype is torch.float32 and bias.shape == (right.shape[1],):
            return product(left, _dense(right).t(), bias.contiguous(), "none", [], "")  # oneDNN reads no strides of it
        return plain_addmm.call_boxed(keys, bias, left, right, beta=beta, alpha=alpha)

    library: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Overriding a previously registered kernel": intended
        library.impl("mm", mm, "CPU", with_keyset=True, allow_override=True)
        library.impl("addmm", addmm, "CPU", with_keyset=True, allow_override=True)
    return library
