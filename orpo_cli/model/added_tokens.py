"""Added special tokens (``model.add_special_tokens``): in the tokenizer, the embeddings and the trained parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def add_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> list[str]:
    """Add special tokens. Returns those that the tokenizer did not have."""
    from transformers import AddedToken

    known = tokenizer.get_vocab()
    new = [token for token in dict.fromkeys(tokens) if token not in known]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in new], special_tokens=True)
    return new


def resize_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Resize the embeddings to the tokenizer. Returns the number of added rows.

    transformers initializes them around the mean of the other rows; training changes them.
    """
    embeddings: Any = model.get_input_embeddings()
    rows = int(embeddings.weight.shape[0])
    if len(tokenizer) <= rows:
        return 0
    model.resize_token_embeddings(len(tokenizer))
    return len(tokenizer) - rows


def trainable_token_indices(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str], configured: Any
) -> dict[str, list[int]]:
    """peft's ``trainable_token_indices`` for an adapter that trains ``tokens`` and the rows ``configured`` in the recipe.

    If the head is not tied to the embeddings, its rows are trained, too.
    """
    embeddings: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
    modules = [names[id(embeddings)]]
    if head is not None and head.weight is not embeddings.weight:
        modules.append(names[id(head)])
    rows: dict[str, list[int]] = configured if isinstance(configured, dict) else {modules[0]: list(configured or [])}
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    return {name: sorted({*rows.get(name, []), *(ids if name in modules else [])}) for name in {*rows, *modules}}
