"""Which tokens end an answer: a model that is shipped without one of them never stops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orpo_cli.data.chat_template import renderer
from orpo_cli.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every end token: the model's own, the tokenizer's EOS, and what its chat template writes after an answer."""
    settings = model.generation_config
    own = settings.eos_token_id if settings is not None else None
    ids = own if isinstance(own, list) else [own]
    try:
        tokens = renderer(tokenizer).end_tokens
    except UsageError:  # a template that cannot render, or no EOS at all: the model's own ends are all there is
        tokens = ()
    return list(
        dict.fromkeys(int(each) for each in (*ids, *tokenizer.convert_tokens_to_ids(list(tokens))) if each is not None)
    )
