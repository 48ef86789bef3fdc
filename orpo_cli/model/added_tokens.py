"""Tokens that a recipe adds (``model.add_special_tokens``): to the tokenizer, to the model's embeddings, to what is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def add_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> list[str]:
    """Add special tokens; gives those that were not there."""
    from transformers import AddedToken

    known = tokenizer.get_vocab()
    new = [token for token in dict.fromkeys(tokens) if token not in known]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in new], special_tokens=True)
    return new


def resize_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Give the model an embedding for every token; gives the rows that were added, 0 where there are enough.

    Their first values are drawn around the mean of the others, as transformers does; training makes them what they are.
    """
    embeddings: Any = model.get_input_embeddings()
    rows = int(embeddings.weight.shape[0])
    if len(tokenizer) <= rows:
        return 0
    model.resize_token_embeddings(len(tokenizer))
    return len(tokenizer) - rows


def trainable_token_indices(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str], asked: Any
) -> dict[str, list[int]]:
    """peft's ``trainable_token_indices`` for an adapter that trains ``tokens`` beside the rows that the recipe ``asked`` for.

    Where the head is not tied to the embeddings, its rows are trained, too.
    """
    own: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
    modules = [names[id(own)]]
    if head is not None and head.weight is not own.weight:
        modules.append(names[id(head)])
    given: dict[str, list[int]] = asked if isinstance(asked, dict) else {modules[0]: list(asked or [])}
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    return {name: sorted({*given.get(name, []), *(ids if name in modules else [])}) for name in {*given, *modules}}
