"""Pairs as token ids.

For every pair that comes out of here: the prompt's ids are a prefix of both sequences; prompt and answers were tokenized
apart, so no token spans the border; an answer ends in one end token, unless it was cut; no sequence is longer than
``max_length`` and no answer is empty.

The beginning-of-text token: a rendered conversation has what its template writes and nothing else, exactly as
``apply_chat_template(…, tokenize=True)`` at inference; a plain text has in front what ``tokenizer(text)`` puts there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from orpo_cli.data.pair import Misfit
from orpo_cli.data.render import Texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANCHOR = "\n"


class Tokens(NamedTuple):
    """The ids of a pair, not yet cut to any length: the prompt, and each answer with its end token."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


class Fitted(NamedTuple):
    """The ids of a pair within the lengths, and what had to be cut."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    prompt_cut: bool
    answers_cut: int  # how many of the two answers lost their end


@dataclass(frozen=True)
class Encoder:
    """Tokenizes texts in batches. Build one with ``encoder``."""

    tokenizer: PreTrainedTokenizerBase
    front: tuple[int, ...]  # what the tokenizer puts before a plain text
    anchor: tuple[int, ...]  # ids of ANCHOR where the tokenizer would put a space before an answer, else ()
    end_ids: frozenset[int]
    eos_id: int | None

    def encode(self, texts: Sequence[Texts]) -> list[Tokens]:
        """The ids of each pair; the prompt of a pair is tokenized once."""
        prompts = self._ids([text.prompt for text in texts])
        answers = [
            self._ended(self._without_anchor(ids, answer))
            for ids, answer in self._anchored([answer for text in texts for answer in (text.chosen, text.rejected)])
        ]
        for index, text in enumerate(texts):
            if text.is_plain and tuple(prompts[index][: len(self.front)]) != self.front:
                prompts[index] = [*self.front, *prompts[index]]
        return [Tokens(*triple) for triple in zip(prompts, answers[::2], answers[1::2], strict=True)]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        return [list(ids) for ids in encoded["input_ids"]]

    def _anchored(self, answers: list[str]) -> list[tuple[list[int], str]]:
        return list(
            zip(self._ids([ANCHOR + answer for answer in answers] if self.anchor else answers), answers, strict=True)
        )

    def _without_anchor(self, ids: list[int], answer: str) -> list[int]:
        if tuple(ids[: len(self.anchor)]) == self.anchor:
            return ids[len(self.anchor) :]
        return self._ids([answer])[0]  # the anchor merged with the answer

    def _ended(self, ids: list[int]) -> list[int]:
        if ids and ids[-1] in self.end_ids:
            return ids
        assert self.eos_id is not None  # renderer() refused a tokenizer without any end token
        return [*ids, self.eos_id]


def encoder(tokenizer: PreTrainedTokenizerBase, end_tokens: Sequence[str]) -> Encoder:
    """Learn from the tokenizer what it puts in front of a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    front = full[: next((at for at in range(len(full)) if full[at : at + len(bare)] == bare), 0)]
    adds_space = str(tokenizer.convert_ids_to_tokens(bare[0])).startswith(("▁", "Ġ"))  # sentencepiece, byte-level
    anchor = tokenizer(ANCHOR, add_special_tokens=False)["input_ids"] if adds_space else []
    end_ids = frozenset(tokenizer.convert_tokens_to_ids(list(end_tokens)))
    return Encoder(tokenizer, tuple(front), tuple(anchor), end_ids, tokenizer.eos_token_id)


def fit(
    tokens: Tokens,
    *,
    max_length: int,
    max_prompt_length: int,
    truncation_mode: Literal["keep_end", "keep_start", "drop"],
    bos_id: int | None,
) -> Fitted:
    """Cut a pair to its lengths. Raises Misfit where nothing would be left to train on.

    ``keep_end`` keeps the last ``max_prompt_length`` tokens of a long prompt, and a beginning-of-text token in front of
    them; ``keep_start`` keeps the first. An answer keeps its start, as far as ``max_length`` has room behind the prompt.
    """
    prompt = tokens.prompt
    too_long = len(prompt) > max_prompt_length
    if too_long:
        if truncation_mode == "drop":
            raise Misfit("prompt_too_long", f"{len(prompt)} tokens")
        prompt = (
            _keep_end(prompt, max_prompt_length, bos_id)
            if truncation_mode == "keep_end"
            else prompt[:max_prompt_length]
        )
    room = max_length - len(prompt)
    if room < 1:
        raise Misfit("no_room", f"{len(tokens.prompt)} tokens")
    chosen, rejected = tokens.chosen[:room], tokens.rejected[:room]
    if chosen == rejected:
        raise Misfit("identical_when_cut")
    cut = (len(chosen) < len(tokens.chosen)) + (len(rejected) < len(tokens.rejected))
    return Fitted(prompt, chosen, rejected, too_long, cut)


def _keep_end(prompt: list[int], length: int, bos_id: int | None) -> list[int]:
    """The last ``length`` ids. A BOS that opens only the text stays; one that opens every turn (SmolLM2's) is a turn's."""
    if bos_id is not None and prompt[0] == bos_id and prompt.count(bos_id) == 1 and length > 1:
        return [bos_id, *prompt[-(length - 1) :]]
    return prompt[-length:]
