"""Quantized base: weights as training used them, rounded to the training dtype, then quantized and dequantized."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orpo_cli.recipe.schema import QuantizationSection

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class QuantizedBase:
    """Dtype and quantization of the base in training.

    ``quantized``: names of parameters that bitsandbytes quantized. ``transposed``: those that it quantized transposed.
    """

    dtype: str
    quantization: QuantizationSection | None = None
    quantized: Collection[str] = ()
    transposed: Collection[str] = ()
    device: str = "cpu"

    def to_training_dtype(self, tensor: Tensor) -> Tensor:
        """A tensor in the training dtype; integers stay as they are."""
        import torch

        return tensor.to(getattr(torch, self.dtype)) if tensor.is_floating_point() else tensor

    def training_value(self, name: str, tensor: Tensor) -> Tensor:
        """The value of a parameter in training: float32, or its integer dtype."""
        tensor = self.to_training_dtype(tensor)
        if name in self.quantized:
            if name in self.transposed:
                return self._quantize_and_dequantize(tensor.T).T.contiguous()
            return self._quantize_and_dequantize(tensor)
        return tensor.float() if tensor.is_floating_point() else tensor

    def _quantize_and_dequantize(self, tensor: Tensor) -> Tensor:
        """Quantize as transformers does when it loads the base, then dequantize to float32 without further rounding."""
        import bitsandbytes as bnb
        import torch

        section = self.quantization
        assert section is not None, "only a quantized base has quantized parameters"
        if section.load_in_8bit:
            held = bnb.nn.Int8Params(tensor, requires_grad=False, has_fp16_weights=False).to(self.device)
            value: Tensor = bnb.functional.int8_vectorwise_dequant(held.data, held.SCB)
            return value.float().cpu()
        held = bnb.nn.Params4bit(
            tensor,
            requires_grad=False,
            quant_type=section.bnb_4bit_quant_type,
            compress_statistics=section.bnb_4bit_use_double_quant,
            quant_storage=getattr(torch, section.bnb_4bit_quant_storage),
        ).to(self.device)
        held.quant_state.dtype = torch.float32
        value = bnb.functional.dequantize_4bit(held.data, held.quant_state)
        return value.float().cpu()
