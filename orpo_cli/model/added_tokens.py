"""Added special tokens (``model.add_special_tokens``): in the tokenizer, the embeddings and the trained parameters.

A token that the chat template writes around messages (``<|im_end|>``) becomes a special token: a message that contains its text has
ordinary tokens there. Every other one is for the texts of the data (``<think>``, ``<|citation|>``): it is added as a token that is not
special, as public tokenizers have them, so it is one token in messages, and generated text shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orpo_cli.model.chat_template_errors import THINKING_TAGS, text_around_messages

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def add_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> list[str]:
    """Add the tokens of a recipe. Returns those that the tokenizer did not have.

    A special token that the tokenizer has, such as a reserved one, is also for the texts of the data, unless the template writes it
    or the tokenizer uses it as end, padding or another token.
    """
    from transformers import AddedToken

    known, added = tokenizer.get_vocab(), {token.content for token in tokenizer.added_tokens_decoder.values()}
    new = [token for token in dict.fromkeys(tokens) if token not in known]
    of_data = data_tokens(tokenizer, tokens)
    for token in [*new, *(token for token in of_data if token in added)]:
        special = token not in of_data
        tokenizer.add_tokens([AddedToken(token, special=special, normalized=False)], special_tokens=special)
    return new


def data_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> list[str]:
    """Those of ``tokens`` that are tokens in the texts of messages, too: not the ones that the template writes around messages."""
    around = text_around_messages(tokenizer) if tokenizer.chat_template else ""
    fixed = {*named_special_tokens(tokenizer)}
    return [
        each for each in dict.fromkeys(tokens) if each not in fixed and (each in THINKING_TAGS or each not in around)
    ]


def named_special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """BOS, EOS, padding and the other special tokens that have a name."""
    names = (
        tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token, tokenizer.sep_token, tokenizer.cls_token,
        tokenizer.mask_token,
    )  # fmt: skip
    return [str(token) for token in names if token is not None]


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
