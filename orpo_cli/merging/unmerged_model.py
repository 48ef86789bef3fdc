"""Unmerged model: the adapters on their base, in memory, as the reference that a merge is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orpo_cli.merging.merge_target import MergeTarget
from orpo_cli.merging.peft_adapters import computes_exactly, dequantize, load_adapters, set_compute_dtype
from orpo_cli.merging.sharded_merge import resize_rows
from orpo_cli.model.base_model import load_base
from orpo_cli.planning.plan import ModelPlan
from orpo_cli.recipe.schema import QuantizationSection

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def load_trained_model(target: MergeTarget, vocab_size: int | None, dtype: str) -> PeftModel:
    """The trained model with its adapters unmerged and the weights of training, computing in ``dtype``.

    It is on the CPU, or on the GPU if training quantized the base there. With 8-bit layers on a GPU the base is dequantized,
    because those layers also quantize activations.
    """
    base = _load_base(target, vocab_size, target.quantization)
    if getattr(base, "hf_quantizer", None) is None:
        return load_adapters(_to_dtype(base, dtype), target.adapters)
    if computes_exactly(base):
        model = load_adapters(base, target.adapters)
        set_compute_dtype(model, dtype)
        return model
    return load_adapters(load_merge_base(target, None, dtype, base), target.adapters)


def load_on_original_base(target: MergeTarget, vocab_size: int | None, dtype: str) -> PeftModel:
    """The adapters on the original base, which training quantized."""
    return load_adapters(_to_dtype(_load_base(target, vocab_size, None), dtype), target.adapters)


def load_merge_base(
    target: MergeTarget, vocab_size: int | None, dtype: str, base: PreTrainedModel | None = None
) -> PreTrainedModel:
    """The base to merge into, on the CPU in ``dtype``, with quantized layers dequantized.

    It is loaded in the dtype of training and converted afterwards, so that it has the rounding that training had.
    """
    if base is None:
        base = _load_base(target, vocab_size, target.merged_quantization)
    if getattr(base, "hf_quantizer", None) is not None:
        set_compute_dtype(base, dtype)
        base = dequantize(base, target.section.model_name_or_path, dtype)
    return _to_dtype(base.to(device="cpu"), dtype)


def with_cpu_attention(section: ModelPlan) -> ModelPlan:
    """``section`` with an attention implementation that runs on a CPU."""
    if section.attn_implementation in ("sdpa", "eager"):
        return section
    return section.model_copy(update={"attn_implementation": "eager"})


def _load_base(
    target: MergeTarget, vocab_size: int | None, quantization: QuantizationSection | None
) -> PreTrainedModel:
    device = target.quantization_device if quantization is not None else "cpu"
    section = target.section if device == "cuda" else with_cpu_attention(target.section)
    model = load_base(target.source.with_section(section), quantization, device)
    if vocab_size is not None:
        _resize_embeddings(model, vocab_size)
    return model


def _resize_embeddings(model: PreTrainedModel, vocab_size: int) -> None:
    """Resize embedding and head; new rows are the mean of the others, as in the merged model."""
    import torch

    weights_before = [layer.weight.data for layer in _embedding_and_head(model)]
    model.resize_token_embeddings(vocab_size, mean_resizing=False)
    with torch.no_grad():
        for layer, weight in zip(_embedding_and_head(model), weights_before, strict=True):
            if weight.shape[0] < vocab_size:
                layer.weight.data.copy_(resize_rows(weight, vocab_size))


def _embedding_and_head(model: PreTrainedModel) -> list[Any]:
    return [each for each in (model.get_input_embeddings(), model.get_output_embeddings()) if each is not None]


def _to_dtype(model: PreTrainedModel, dtype: str) -> PreTrainedModel:
    import torch

    return model.to(dtype=getattr(torch, dtype))
