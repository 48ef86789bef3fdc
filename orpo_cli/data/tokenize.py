"""Pairs as token ids.

For every pair that comes out of here: the prompt's ids are a prefix of both sequences; prompt and answers were tokenized
apart, so no token spans the border; an answer ends in one end token, unless it was cut; no sequence is longer than
``max_length`` and no answer is empty.

The beginning-of-text token: a rendered conversation has what its template writes and nothing else, exactly as
``apply_chat_template(…, tokenize=True)`` at inference; a plain text has in front what ``tokenizer(text)`` puts there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from orpo_cli.data.chat_template import PairTexts
from orpo_cli.data.pair import RowRejected

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANCHOR = "\n"


class PairTokens(NamedTuple):
    """The ids of a pair, not yet cut to any length: the prompt, and each answer with its end token."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


class TruncatedPair(NamedTuple):
    """The ids of a pair within the lengths, and what had to be cut."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    prompt_truncated: bool
    completions_truncated: int  # how many of the two answers lost their end
    full_lengths: tuple[int, int, int] = (0, 0, 0)  # tokens of prompt, chosen and rejected answer before


@dataclass(frozen=True)
class PairTokenizer:
    """Tokenizes texts in batches. Build one with ``encoder``."""

    tokenizer: PreTrainedTokenizerBase
    prefix_ids: tuple[int, ...]  # what the tokenizer puts before a plain text
    anchor_ids: tuple[int, ...]  # ids of ANCHOR where the tokenizer would put a space before an answer, else ()
    end_token_ids: frozenset[int]
    eos_id: int | None
    backend: Any  # the tokenizer's own Rust tokenizer where nothing of transformers stands before it, else None

    def encode(self, texts: Sequence[PairTexts]) -> list[PairTokens]:
        """The ids of each pair; the prompt of a pair is tokenized once."""
        together = iter(self._encode_batch([text for text in texts if not text.placeholders]))
        return [self._encode_with_placeholders(text) if text.placeholders else next(together) for text in texts]

    def _encode_batch(self, texts: Sequence[PairTexts]) -> list[PairTokens]:
        prompts = self._token_ids([text.prompt for text in texts])
        answers = self._continuation_ids([answer for text in texts for answer in (text.chosen, text.rejected)])
        for index, text in enumerate(texts):
            if text.is_plain and tuple(prompts[index][: len(self.prefix_ids)]) != self.prefix_ids:
                prompts[index] = [*self.prefix_ids, *prompts[index]]
        return [
            PairTokens(prompt, self._with_end_token(chosen), self._with_end_token(rejected))
            for prompt, chosen, rejected in zip(prompts, answers[::2], answers[1::2], strict=True)
        ]

    def _encode_with_placeholders(self, text: PairTexts) -> PairTokens:
        """The ids of a pair whose messages spell special tokens. These are cut behind their first character: so they are none."""
        border = re.compile(f"([{''.join(text.placeholders)}])")
        prompt, *answers = (
            [
                part
                for piece in border.split(whole)
                for part in (
                    (text.placeholders[piece][:1], text.placeholders[piece][1:])
                    if piece in text.placeholders
                    else (piece,)
                )
                if part
            ]
            for whole in (text.prompt, text.chosen, text.rejected)
        )
        first = self._token_ids(prompt[:1]) + self._continuation_ids(prompt[1:])
        chosen, rejected = (self._with_end_token(_concatenate(self._continuation_ids(parts))) for parts in answers)
        return PairTokens(_concatenate(first), chosen, rejected)

    def _token_ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        if self.backend is not None:  # without the offsets that transformers asks for: an eighth of the time
            return [found.ids for found in self.backend.encode_batch_fast(texts, add_special_tokens=False)]
        encoded = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        return [list(ids) for ids in encoded["input_ids"]]

    def _continuation_ids(self, texts: list[str]) -> list[list[int]]:
        """The ids of texts that stand behind others: some tokenizers would put a space in front of each."""
        if not self.anchor_ids:
            return self._token_ids(texts)
        anchored = self._token_ids([ANCHOR + text for text in texts])
        return [self._without_anchor(ids, text) for ids, text in zip(anchored, texts, strict=True)]

    def _without_anchor(self, ids: list[int], text: str) -> list[int]:
        if tuple(ids[: len(self.anchor_ids)]) == self.anchor_ids:
            return ids[len(self.anchor_ids) :]
        return self._token_ids([text])[0]  # the anchor merged with the text

    def _with_end_token(self, ids: list[int]) -> list[int]:
        if ids and ids[-1] in self.end_token_ids:
            return ids
        assert self.eos_id is not None  # renderer() refused a tokenizer without any end token
        return [*ids, self.eos_id]


def _concatenate(parts: list[list[int]]) -> list[int]:
    return [token for part in parts for token in part]


def encoder(tokenizer: PreTrainedTokenizerBase, end_tokens: Sequence[str]) -> PairTokenizer:
    """Learn from the tokenizer what it puts in front of a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    front = full[: next((at for at in range(len(full)) if full[at : at + len(bare)] == bare), 0)]
    adds_space = str(tokenizer.convert_ids_to_tokens(bare[0])).startswith(("▁", "Ġ"))  # sentencepiece, byte-level
    anchor = tokenizer(ANCHOR, add_special_tokens=False)["input_ids"] if adds_space else []
    end_ids = frozenset(tokenizer.convert_tokens_to_ids(list(end_tokens)))
    return PairTokenizer(
        tokenizer, tuple(front), tuple(anchor), end_ids, tokenizer.eos_token_id, _fast_backend(tokenizer)
    )


def _fast_backend(tokenizer: PreTrainedTokenizerBase) -> Any:
    """The Rust tokenizer, as the last call of ``tokenizer`` without padding and truncation left it."""
    from transformers import PreTrainedTokenizerFast

    is_plain = isinstance(tokenizer, PreTrainedTokenizerFast) and all(
        getattr(type(tokenizer), name) is getattr(PreTrainedTokenizerFast, name)
        for name in ("__call__", "_encode_plus")
    )
    return tokenizer.backend_tokenizer if is_plain else None


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
    """Cut a pair to its lengths. Raises RowRejected where nothing would be left to train on, or an answer would lose its end
    and ``drop_truncated`` asks for whole ones.

    A prompt is cut as trl did it while it had these settings: only in a pair that is longer than ``max_length``, down to
    ``max_prompt_length``. ``keep_end`` keeps its last tokens, and a beginning-of-text token in front of them; ``keep_start``
    its first; ``drop`` leaves the pair out. An answer keeps its start, as far as ``max_length`` has room behind the prompt.
    """
    prompt = tokens.prompt
    whole = len(prompt) + max(len(tokens.chosen), len(tokens.rejected))
    too_long = whole > max_length and len(prompt) > max_prompt_length
    if too_long:
        if truncation_mode == "drop":
            raise RowRejected("prompt_too_long", f"{len(prompt)} of {whole} tokens")
        prompt = (
            _truncate_left(prompt, max_prompt_length, bos_id)
            if truncation_mode == "keep_end"
            else prompt[:max_prompt_length]
        )
    room = max_length - len(prompt)
    if room < 1:
        raise RowRejected("no_room", f"{len(tokens.prompt)} tokens")
    chosen, rejected = tokens.chosen[:room], tokens.rejected[:room]
    if drop_identical and chosen == rejected:
        raise RowRejected("identical_when_cut")
    cut = (len(chosen) < len(tokens.chosen)) + (len(rejected) < len(tokens.rejected))
    if cut and drop_truncated:
        raise RowRejected("answer_too_long", f"{max(len(tokens.chosen), len(tokens.rejected))} tokens")
    uncut = (len(tokens.prompt), len(tokens.chosen), len(tokens.rejected))
    return TruncatedPair(prompt, chosen, rejected, too_long, cut, uncut)


def _truncate_left(prompt: list[int], length: int, bos_id: int | None) -> list[int]:
    """The last ``length`` ids. A BOS that opens only the text stays; one that opens every turn (SmolLM2's) is a turn's."""
    if bos_id is not None and prompt[0] == bos_id and prompt.count(bos_id) == 1 and length > 1:
        return [bos_id, *prompt[-(length - 1) :]]
    return prompt[-length:]
