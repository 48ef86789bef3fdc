"""Initialization of MKL's vector math functions in one thread, before several threads use them.

torch computes cos, sin, exp and the like of float tensors with MKL's vector math (VML). MKL picks the kernel of a function in the
function's first call. Where several threads make that call together, one of them may compute its part with a kernel of low
accuracy (https://github.com/pytorch/pytorch/issues/188792; MKL 2024.2, which torch 2.10 and 2.13 carry). The error is up to
1.5e-4 for cos and sin, in that call only. In a language model these are the rotary positions of the first prompt:
such an error in half of them moves logits of SmolLM2-135M by 0.009 to 0.022, where a merge differs by 7e-5 to 8e-5.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LOG2_E = 1 / math.log(2)
FUNCTIONS = (
    "acos", "asin", "atan", "cos", "erf", "erfc", "erfinv", "exp", "expm1", "lgamma", "log", "log10", "log1p", "log2", "sin",
    "sqrt", "tan", "tanh",
)  # fmt: skip


def exp_(tensor: Tensor) -> Tensor:
    """``tensor.exp_()``. On a CPU as a power of 2, which torch computes itself.

    MKL's exp takes four times as long (AMD, AVX-512), and fifty times where results are near 1e-39. The power's relative error is that of
    rounding ``x * log2(e)``: 6e-8 * abs(x) in float32.
    """
    return tensor.mul_(LOG2_E).exp2_() if tensor.is_cpu else tensor.exp_()


def initialize_vector_math() -> None:
    """Call every function on one number, which one thread computes; takes less than a millisecond."""
    import torch

    for dtype in (torch.float32, torch.float64):
        number = torch.full((1,), 0.5, dtype=dtype)
        for name in FUNCTIONS:
            getattr(torch, name)(number)
