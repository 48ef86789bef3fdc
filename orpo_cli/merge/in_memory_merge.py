"""The merge with the whole model in memory, by PEFT, for what cannot be done tensor by tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orpo_cli.errors import RunError, UsageError
from orpo_cli.merge.merge_target import MergeTarget
from orpo_cli.merge.peft_adapters import adapter_names, load_adapters
from orpo_cli.merge.unmerged_model import load_merge_base

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def merge_in_memory(target: MergeTarget, rows: int | None, dtype: str) -> PreTrainedModel:
    """The merged model, computed in ``dtype`` on the CPU; ``rows``: the size of a vocabulary that has grown."""
    tuned = load_adapters(load_merge_base(target, rows, dtype), target.adapters)
    check_tied_layers(tuned)
    try:
        return tuned.merge_and_unload(safe_merge=True, adapter_names=adapter_names(target.adapters))
    except ValueError as error:  # PEFT's words for weights that are not finite
        raise RunError(f"{target.adapter}: {error}", remedy="The adapter is broken: train again.") from error


def check_tied_layers(model: PeftModel) -> None:
    """Raise UsageError where PEFT would merge without an error into a model that says something else.

    A tied model has one matrix for embedding and head. An adapter on either changes only its own use of it, which one
    matrix cannot hold: merged logits are off (0.22 on a tiny Llama), also with ``ensure_weight_tying``.
    """
    from peft.tuners.trainable_tokens import TrainableTokensLayer
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    base = model.get_base_model()
    if not getattr(base.config.get_text_config(), "tie_word_embeddings", False):
        return
    tied = getattr(model.active_peft_config, "ensure_weight_tying", False)
    for name, module in (("embed_tokens", base.get_input_embeddings()), ("lm_head", base.get_output_embeddings())):
        own = isinstance(module, BaseTunerLayer) and not isinstance(module, TrainableTokensLayer)
        if own or (isinstance(module, ModulesToSaveWrapper) and not tied):
            raise UsageError(
                f"the adapter changes {name}, which this model ties to its other end, and the base can only be merged in "
                "memory, where both stay one.",
                remedy=f"Train without {name}, or use the adapter unmerged.",
            )
