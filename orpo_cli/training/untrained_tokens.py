"""Untrained chat-template tokens: special tokens whose embeddings neither the base model nor the adapter has trained.

A base model's vocabulary often contains the tokens of its instruct sibling (``<|eot_id|>``), with embeddings as they were
initialised. LoRA on the linear layers trains neither their embeddings nor their rows of the head: the model reads noise
where a turn ends, and hardly learns to end a turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from orpo_cli.errors import Problem

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

CHECKED_PAIRS = 64
SMALL_NORM = 0.01  # relative to the median norm of the embeddings


def untrained_template_tokens(model: Any, tokenizer: PreTrainedTokenizerBase, pairs: Dataset) -> Problem | None:
    """A warning where tokenized ``pairs`` have special tokens whose embeddings are untrained and frozen in ``model``."""
    embeddings = model.get_input_embeddings()
    if embeddings is None or any(parameter.requires_grad for parameter in embeddings.parameters()):
        return None
    rows = pairs.select(range(min(CHECKED_PAIRS, len(pairs))))
    seen = {token for row in rows for token in (*row["prompt_input_ids"], *row["chosen_answer_ids"])}
    special = sorted(seen & {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder})
    untrained = [token for token in special if looks_untrained(embeddings.weight, token)]
    if not untrained:
        return None
    names = ", ".join(tokenizer.convert_ids_to_tokens(untrained))
    modules = ", ".join(_module_names(model))
    return Problem(
        "untrained-template-tokens",
        f"writes {names}, of which the model never learned an embedding, and the adapter does not train it.",
        "model.chat_template",
        remedy=f"Use a template whose tokens the model knows, such as zephyr, or set lora.modules_to_save: [{modules}].",
        severity="warning",
    )


def looks_untrained(weight: torch.Tensor, token: int) -> bool:
    """Whether the row of ``token`` in ``weight`` (vocab_size, hidden_size) is almost zero, or equal to another token's."""
    row = weight[token]
    median = weight[:: max(1, len(weight) // 4096)].float().norm(dim=1).median()
    if row.float().norm() < SMALL_NORM * median:
        return True
    candidates = (weight[:, :8] == row[:8]).all(dim=1).nonzero().flatten()
    return int((weight[candidates] == row).all(dim=1).sum()) > 1


def _module_names(model: Any) -> list[str]:
    """Names for lora.modules_to_save of the embeddings, and of the head where it is not tied to them."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and head.weight is embeddings.weight
    wanted = [embeddings] if head is None or tied else [embeddings, head]
    return [name.rpartition(".")[2] for name, module in model.named_modules() if any(module is each for each in wanted)]
