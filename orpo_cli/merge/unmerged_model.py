"""What a merge is compared with: the adapters on their base, unmerged, in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orpo_cli.merge.merge_target import MergeTarget
from orpo_cli.merge.peft_adapters import computes_exactly, dequantize, load_adapters, set_compute_dtype
from orpo_cli.merge.sharded_merge import append_mean_rows
from orpo_cli.plan.plan import ModelPlan
from orpo_cli.recipe.schema import QuantizationSection

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def load_trained_model(target: MergeTarget, rows: int | None, dtype: str) -> PeftModel:
    """The trained model, its adapters unmerged, computing in ``dtype`` with the weights that it was trained with.

    On the CPU, or where the base was quantized on a GPU, there. In 8 bits on a GPU the base is dequantized: it would
    quantize activations, too.
    """
    base = _load_base(target, rows, target.quantization)
    if getattr(base, "hf_quantizer", None) is None:
        return load_adapters(_to_dtype(base, dtype), target.adapters)
    if computes_exactly(base):
        tuned = load_adapters(base, target.adapters)
        set_compute_dtype(tuned, dtype)
        return tuned
    return load_adapters(load_merge_base(target, None, dtype, base), target.adapters)


def load_on_original_base(target: MergeTarget, rows: int | None, dtype: str) -> PeftModel:
    """The adapters on the base as it was before training quantized it."""
    return load_adapters(_to_dtype(_load_base(target, rows, None), dtype), target.adapters)


def load_merge_base(
    target: MergeTarget, rows: int | None, dtype: str, base: PreTrainedModel | None = None
) -> PreTrainedModel:
    """The base that is merged into, on the CPU in ``dtype``; what was quantized is dequantized.

    It is loaded in the type that it was trained in and widened after: training never saw what that type rounds away.
    """
    if base is None:
        base = _load_base(target, rows, target.merged_quantization)
    if getattr(base, "hf_quantizer", None) is not None:
        set_compute_dtype(base, dtype)
        base = dequantize(base, target.section.model_name_or_path, dtype)
    return _to_dtype(base.to(device="cpu"), dtype)


def with_cpu_attention(section: ModelPlan) -> ModelPlan:
    """``section`` with an attention kernel that the CPU has."""
    if section.attn_implementation in ("sdpa", "eager"):
        return section
    return section.model_copy(update={"attn_implementation": "eager"})


def _load_base(target: MergeTarget, rows: int | None, quantization: QuantizationSection | None) -> PreTrainedModel:
    import torch

    from orpo_cli.model.base_model import load_base

    cuda = quantization is not None and target.device == "cuda" and torch.cuda.is_available()
    section = target.section if cuda else with_cpu_attention(target.section)
    model = load_base(target.source.with_section(section), quantization, "cuda" if cuda else "cpu")
    if rows is not None:
        _resize_embeddings(model, rows)
    return model


def _resize_embeddings(model: PreTrainedModel, rows: int) -> None:
    """Give the model ``rows`` tokens; new ones have the mean of the others, as in the merged model."""
    import torch

    old = [end.weight.data for end in _embedding_and_head(model)]
    model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for end, weight in zip(_embedding_and_head(model), old, strict=True):
            if weight.shape[0] < rows:
                end.weight.data.copy_(append_mean_rows(weight, rows))


def _embedding_and_head(model: PreTrainedModel) -> list[Any]:
    """Embedding and head."""
    return [end for end in (model.get_input_embeddings(), model.get_output_embeddings()) if end is not None]


def _to_dtype(model: PreTrainedModel, dtype: str) -> PreTrainedModel:
    import torch

    return model.to(dtype=getattr(torch, dtype))
