"""Tokenization of pairs and truncation to the maximum lengths.

Guarantees for every pair: the prompt's ids are a prefix of both sequences; prompt and completions are tokenized separately, so
no token spans the boundary; a completion ends in one end token, unless it was truncated; no sequence is longer than
``max_length`` and no completion is empty.

Beginning-of-text token: a rendered conversation has what its template writes and nothing else, exactly as
``apply_chat_template(…, tokenize=True)`` at inference; a plain text starts with what ``tokenizer(text)`` adds in front.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from orpo_cli.data.chat_template import PairTexts
from orpo_cli.data.pair import RowRejected

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANCHOR = "\n"


class PairTokens(NamedTuple):
    """Token ids of a pair before truncation: the prompt, and each completion with its end token."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


class TruncatedPair(NamedTuple):
    """Token ids of a pair within the maximum lengths, and what was truncated."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    prompt_truncated: bool
    completions_truncated: int  # 0, 1 or 2
    full_lengths: tuple[int, int, int] = (0, 0, 0)  # tokens of prompt, chosen and rejected before truncation


class PairTokenizer:
    """Batch tokenizer for the texts of pairs; ``end_tokens`` are the tokens that end a completion."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_tokens: Sequence[str]) -> None:
        self.end_token_ids = frozenset(tokenizer.convert_tokens_to_ids(list(end_tokens)))
        self._tokenizer = tokenizer
        self._eos_token_id = tokenizer.eos_token_id  # a lookup in the vocabulary, so once and not per completion
        bare = tokenizer("a", add_special_tokens=False)["input_ids"]
        full = tokenizer("a")["input_ids"]
        prefix = full[: next((at for at in range(len(full)) if full[at : at + len(bare)] == bare), 0)]
        self._prefix_ids = tuple(prefix)  # what the tokenizer adds before a plain text
        adds_space = str(tokenizer.convert_ids_to_tokens(bare[0])).startswith(("▁", "Ġ"))  # sentencepiece, byte-level
        anchor = tokenizer(ANCHOR, add_special_tokens=False)["input_ids"] if adds_space else []
        self._anchor_ids = tuple(anchor)  # of ANCHOR where the tokenizer would add a space before a completion
        self._backend = _fast_backend(tokenizer)
        self.is_thread_safe = self._backend is not None  # transformers sets options of the tokenizer in each call

    def encode(self, texts: Sequence[PairTexts]) -> list[PairTokens]:
        """Token ids of each pair; the prompt of a pair is tokenized once."""
        batch = iter(self._encode_batch([text for text in texts if not text.placeholders]))
        return [self._encode_with_placeholders(text) if text.placeholders else next(batch) for text in texts]

    def _encode_batch(self, texts: Sequence[PairTexts]) -> list[PairTokens]:
        starts = [text.prompt for text in texts]
        continuations = [each for text in texts for each in (text.chosen, text.rejected)]
        if self._anchor_ids:
            prompts, completions = self._token_ids(starts), self._continuation_ids(continuations)
        else:  # in one call, which uses the cores better
            both = self._token_ids(starts + continuations)
            prompts, completions = both[: len(texts)], both[len(texts) :]
        for index, text in enumerate(texts):
            if text.is_plain and tuple(prompts[index][: len(self._prefix_ids)]) != self._prefix_ids:
                prompts[index] = [*self._prefix_ids, *prompts[index]]
        return [
            PairTokens(prompt, self._with_end_token(chosen), self._with_end_token(rejected))
            for prompt, chosen, rejected in zip(prompts, completions[::2], completions[1::2], strict=True)
        ]

    def _encode_with_placeholders(self, text: PairTexts) -> PairTokens:
        """Token ids of a pair whose messages contain special tokens as text.

        Such a text is tokenized in two parts, its first character and the rest, so that no special token results.
        """
        boundary = re.compile(f"([{''.join(text.placeholders)}])")

        def split(rendered: str) -> list[str]:
            parts: list[str] = []
            for span in boundary.split(rendered):
                token = text.placeholders.get(span)
                parts += [span] if token is None else [token[:1], token[1:]]
            return [part for part in parts if part]

        prompt = split(text.prompt)
        prompt_ids = _concatenate(self._token_ids(prompt[:1]) + self._continuation_ids(prompt[1:]))
        chosen, rejected = (_concatenate(self._continuation_ids(split(each))) for each in (text.chosen, text.rejected))
        return PairTokens(prompt_ids, self._with_end_token(chosen), self._with_end_token(rejected))

    def _token_ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        if self._backend is not None:  # without the offsets that transformers requests: an eighth of the time
            return [found.ids for found in self._backend.encode_batch_fast(texts, add_special_tokens=False)]
        encoded = self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        return [list(ids) for ids in encoded["input_ids"]]

    def _continuation_ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts that follow other texts: some tokenizers would add a space in front of each."""
        if not self._anchor_ids:
            return self._token_ids(texts)
        anchored = self._token_ids([ANCHOR + text for text in texts])
        return [self._without_anchor(ids, text) for ids, text in zip(anchored, texts, strict=True)]

    def _without_anchor(self, ids: list[int], text: str) -> list[int]:
        if tuple(ids[: len(self._anchor_ids)]) == self._anchor_ids:
            return ids[len(self._anchor_ids) :]
        return self._token_ids([text])[0]  # the anchor merged with the text

    def _with_end_token(self, ids: list[int]) -> list[int]:
        if ids and ids[-1] in self.end_token_ids:
            return ids
        assert self._eos_token_id is not None  # ChatTemplateRenderer refuses a tokenizer without end tokens
        return [*ids, self._eos_token_id]


def truncate(
    tokens: PairTokens,
    *,
    max_length: int,
    max_prompt_length: int,
    truncation_mode: Literal["keep_end", "keep_start", "drop"],
    drop_truncated: bool = False,
    drop_identical: bool = True,
    bos_id: int | None,
) -> TruncatedPair:
    """Truncate a pair to the maximum lengths (tokens).

    A prompt is truncated as TRL did while it had these settings: only in a pair that is longer than ``max_length``, to
    ``max_prompt_length``. ``keep_end`` keeps its last tokens, and a beginning-of-text token in front of them; ``keep_start``
    its first tokens; ``drop`` rejects the pair. A completion keeps its start, up to ``max_length`` minus the prompt.

    Raises RowRejected where no completion token is left to train on, or where a completion would lose its end and
    ``drop_truncated`` is set.
    """
    prompt = tokens.prompt
    full_length = len(prompt) + max(len(tokens.chosen), len(tokens.rejected))
    truncate_prompt = full_length > max_length and len(prompt) > max_prompt_length
    if truncate_prompt:
        if truncation_mode == "drop":
            raise RowRejected("prompt_too_long", f"{len(prompt)} of {full_length} tokens")
        keep_end = truncation_mode == "keep_end"
        prompt = _truncate_left(prompt, max_prompt_length, bos_id) if keep_end else prompt[:max_prompt_length]
    max_completion_length = max_length - len(prompt)
    if max_completion_length < 1:
        raise RowRejected("no_room", f"{len(tokens.prompt)} tokens")
    chosen, rejected = tokens.chosen[:max_completion_length], tokens.rejected[:max_completion_length]
    if drop_identical and chosen == rejected:
        raise RowRejected("identical_when_cut")
    truncated = (len(chosen) < len(tokens.chosen)) + (len(rejected) < len(tokens.rejected))
    if truncated and drop_truncated:
        raise RowRejected("answer_too_long", f"{max(len(tokens.chosen), len(tokens.rejected))} tokens")
    full_lengths = (len(tokens.prompt), len(tokens.chosen), len(tokens.rejected))
    return TruncatedPair(prompt, chosen, rejected, truncate_prompt, truncated, full_lengths)


def _truncate_left(prompt: list[int], length: int, bos_id: int | None) -> list[int]:
    """Last ``length`` ids, with a BOS that starts only the text. A BOS that starts every turn (SmolLM2) belongs to a turn."""
    if bos_id is not None and prompt[0] == bos_id and prompt.count(bos_id) == 1 and length > 1:
        return [bos_id, *prompt[-(length - 1) :]]
    return prompt[-length:]


def _concatenate(parts: list[list[int]]) -> list[int]:
    return [token for part in parts for token in part]


def _fast_backend(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Rust tokenizer, as the last call of ``tokenizer`` without padding and truncation left it.

    None where a subclass of transformers' fast tokenizer changes how texts are encoded.
    """
    from transformers import PreTrainedTokenizerFast

    is_unchanged = isinstance(tokenizer, PreTrainedTokenizerFast) and all(
        getattr(type(tokenizer), name) is getattr(PreTrainedTokenizerFast, name)
        for name in ("__call__", "_encode_plus")
    )
    return tokenizer.backend_tokenizer if is_unchanged else None
