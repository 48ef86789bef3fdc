"""Pair encoder: chat template rendering, tokenization and end tokens of one tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from orpo_cli.data.chat_template import ChatTemplateRenderer, PairTexts
from orpo_cli.data.pair import Pair, RowRejected
from orpo_cli.data.tokenize import PairTokenizer, PairTokens
from orpo_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class PairEncoder:
    """Encoder of pairs into the token ids that training uses. Raises UsageError where no token can end a completion."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._renderer = ChatTemplateRenderer(tokenizer)
        self.end_tokens = self._renderer.end_tokens  # the template's first, then the EOS token

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Ids of ``end_tokens``."""
        return self._pair_tokenizer.end_token_ids

    @property
    def is_thread_safe(self) -> bool:
        """Whether several threads may call ``tokenize`` at once."""
        return self._pair_tokenizer.is_thread_safe

    @cached_property
    def _pair_tokenizer(self) -> PairTokenizer:
        return PairTokenizer(self.tokenizer, self.end_tokens)

    def render(self, pairs: Sequence[Pair]) -> list[PairTexts | RowRejected]:
        """Texts of each pair, or why the template cannot render it. Raises UsageError where it can render none."""
        return self._renderer.render(pairs)

    def tokenize(self, texts: Sequence[PairTexts]) -> list[PairTokens]:
        """Token ids of rendered pairs, before truncation."""
        return self._pair_tokenizer.encode(texts)

    def encode(self, pair: Pair) -> PairTokens:
        """Token ids of one pair, before truncation. Raises RowRejected or UsageError where it cannot be rendered."""
        (texts,) = self.render([pair])
        if isinstance(texts, RowRejected):
            raise texts
        return self.tokenize([texts])[0]


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of all end tokens: of the model's generation config, the tokenizer's EOS, and what its chat template writes.

    A model that is saved without one of them never stops.
    """
    config = model.generation_config
    configured = config.eos_token_id if config is not None else None
    ids = configured if isinstance(configured, list) else [configured]
    try:
        tokens = PairEncoder(tokenizer).end_tokens
    except (
        UsageError,
        DataError,
    ):  # a template that cannot render, or no EOS token: only the model's end tokens are known
        tokens = ()
    return list(
        dict.fromkeys(int(each) for each in (*ids, *tokenizer.convert_tokens_to_ids(list(tokens))) if each is not None)
    )
