"""What a merge is compared with: the adapters on their base, unmerged, in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orpo_cli.merge.merge_target import MergeTarget
from orpo_cli.merge.peft_adapters import attach, dequantized, is_exact, widen
from orpo_cli.merge.sharded_merge import with_mean_rows
from orpo_cli.recipe.schema import ModelSection, QuantizationSection

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def load_trained(target: MergeTarget, rows: int | None, dtype: str) -> PeftModel:
    """The trained model, its adapters unmerged, computing in ``dtype`` with the weights that it was trained with.

    On the CPU, or where the base was quantized on a GPU, there. In 8 bits on a GPU the base is dequantized: it would
    quantize activations, too.
    """
    base = _load(target, rows, target.quantization)
    if getattr(base, "hf_quantizer", None) is None:
        return attach(_in(base, dtype), target.adapters)
    if is_exact(base):
        tuned = attach(base, target.adapters)
        widen(tuned, dtype)
        return tuned
    return attach(load_unquantized(target, None, dtype, base), target.adapters)


def load_original(target: MergeTarget, rows: int | None, dtype: str) -> PeftModel:
    """The adapters on the base as it was before training quantized it."""
    return attach(_in(_load(target, rows, None), dtype), target.adapters)


def load_unquantized(
    target: MergeTarget, rows: int | None, dtype: str, base: PreTrainedModel | None = None
) -> PreTrainedModel:
    """The base that is merged into, on the CPU in ``dtype``; what was quantized is dequantized.

    It is loaded in the type that it was trained in and widened after: training never saw what that type rounds away.
    """
    if base is None:
        base = _load(target, rows, target.merged_quantization)
    if getattr(base, "hf_quantizer", None) is not None:
        widen(base, dtype)
        base = dequantized(base, target.section.model_name_or_path, dtype)
    return _in(base.to(device="cpu"), dtype)


def on_cpu(section: ModelSection) -> ModelSection:
    """``section`` with an attention kernel that the CPU has."""
    if section.attn_implementation in ("sdpa", "eager"):
        return section
    return section.model_copy(update={"attn_implementation": "eager"})


def _load(target: MergeTarget, rows: int | None, quantization: QuantizationSection | None) -> PreTrainedModel:
    import torch

    from orpo_cli.model.base_model import load_base

    cuda = quantization is not None and target.device == "cuda" and torch.cuda.is_available()
    section = target.section if cuda else on_cpu(target.section)
    model = load_base(section, quantization, "cuda" if cuda else "cpu")
    if rows is not None:
        _grow(model, rows)
    return model


def _grow(model: PreTrainedModel, rows: int) -> None:
    """Give the model ``rows`` tokens; new ones have the mean of the others, as in the merged model."""
    import torch

    old = [end.weight.data for end in _ends(model)]
    model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for end, weight in zip(_ends(model), old, strict=True):
            if weight.shape[0] < rows:
                end.weight.data.copy_(with_mean_rows(weight, rows))


def _ends(model: PreTrainedModel) -> list[Any]:
    """Embedding and head."""
    return [end for end in (model.get_input_embeddings(), model.get_output_embeddings()) if end is not None]


def _in(model: PreTrainedModel, dtype: str) -> PreTrainedModel:
    import torch

    return model.to(dtype=getattr(torch, dtype))
