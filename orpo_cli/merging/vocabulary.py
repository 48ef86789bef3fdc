"""Vocabulary of the trained model: its size, where training extended or cut that of the base."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from orpo_cli.errors import UsageError
from orpo_cli.merging.adapter_formats import PREFIX, BaseNames, open_weights
from orpo_cli.merging.peft_adapters import Adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Weights of an adapter that contain the rows of all tokens.
_ALL_ROWS = ("weight", "base_layer.weight", "token_adapter.base_layer.weight")
# Weights with a dimension of the vocabulary's size, and which one.
_EMBEDDING_WEIGHTS = {**dict.fromkeys(_ALL_ROWS, 0), "lora_embedding_A": 1}
_HEAD_WEIGHTS = {**dict.fromkeys(_ALL_ROWS, 0), "lora_B.weight": 0}


def resized_vocabulary(
    model: PreTrainedModel, adapter: Adapter, tokenizer: PreTrainedTokenizerBase, note: Callable[[str], None]
) -> int | None:
    """The vocabulary size of the trained model if it differs from that of the base ``model``, else None.

    An adapter with weights of the embedding or the head determines it; otherwise a tokenizer with more tokens than the base.
    Raises UsageError if embedding and head of the adapter have different sizes.
    """
    base_size = int(model.get_input_embeddings().weight.shape[0])
    names = BaseNames.of(model)
    sizes = _sizes_in_adapter(adapter, names)
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{size} rows in {name}" for name, size in sizes.items())
        raise UsageError(
            f"{adapter.folder} has several sizes of the vocabulary: {listed}.",
            remedy="Save the adapter again with PEFT.",
        )
    size = next(iter(sizes.values()), max(base_size, len(tokenizer)))
    if size == base_size:
        return None
    if size < min(base_size, len(tokenizer)):
        raise UsageError(
            f"{adapter.folder} cuts the vocabulary to {size} tokens, but its tokenizer has {len(tokenizer)}.",
            remedy="Save the adapter together with the tokenizer of its training.",
        )
    note(f"training {'extended' if size > base_size else 'cut'} the vocabulary from {base_size} to {size} tokens")
    for layer in dict.fromkeys((names.embedding, names.embedding if names.tied else names.head)):
        has_rows = any(f"{PREFIX}{layer}.{each}" in sizes for each in _ALL_ROWS)
        missing = set(range(base_size, size)) - _trained_tokens(adapter, str(layer))
        if missing and not has_rows:
            note(f"the adapter does not contain {len(missing)} new rows of {layer}: each is the mean of the other rows")
    if size > base_size >= len(tokenizer):
        note(
            f"no token of the tokenizer has one of the {size - base_size} new rows: the adapter may lack its tokenizer"
        )
    return size


def _sizes_in_adapter(adapter: Adapter, base: BaseNames) -> dict[str, int]:
    specs = open_weights(adapter.peft_folder).specs
    found = {}
    for layer, weights in ((base.embedding, _EMBEDDING_WEIGHTS), (base.head, _HEAD_WEIGHTS)):
        for weight, dimension in weights.items():
            if (name := f"{PREFIX}{layer}.{weight}") in specs:
                found[name] = specs[name].shape[dimension]
    return found


def _trained_tokens(adapter: Adapter, layer: str) -> set[int]:
    """Ids of the tokens whose rows of ``layer`` the adapter contains, besides complete embeddings."""
    config = adapter.config
    indices = getattr(config, "trainable_token_indices", None) or getattr(config, "token_indices", None) or []
    if isinstance(indices, dict):
        return {each for name, ids in indices.items() if layer.endswith(name) for each in ids}
    return set() if layer.endswith("lm_head") else set(indices)
