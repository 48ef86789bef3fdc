"""Token spans: the tokens of a pair as readable text, each with the loss terms that it counts in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from orpo_cli.redaction import find_change, redact_record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from orpo_cli.data.pair_encoder import PairEncoder

TokenPurpose = Literal["prompt", "prompt_nll", "chosen", "rejected", "end"]
MAX_CHARACTER_TOKENS = 4  # a UTF-8 character has four bytes at most


class TokenSpan(NamedTuple):
    """One token, or several that form one character. ``text`` is what it adds to the text.

    A secret is one span, whose ids are None: a tokenizer decodes them.
    """

    ids: tuple[int | None, ...]
    text: str
    purpose: TokenPurpose


def token_spans(row: dict[str, Any], encoder: PairEncoder, *, loss_on_prompt: bool) -> dict[str, list[TokenSpan]]:
    """Spans of the prompt and both completions of a row of the train dataset.

    The NLL covers the chosen completion, and with ``loss_on_prompt`` the prompt; the odds ratio covers both completions.
    """
    prompt = row["prompt_input_ids"]
    spans = {"prompt": _spans(prompt, encoder.tokenizer, "prompt_nll" if loss_on_prompt else "prompt")}
    for name in ("chosen", "rejected"):
        completion = row[f"{name}_answer_ids"]
        spans[name] = _spans(completion, encoder.tokenizer, name)
        if completion and completion[-1] in encoder.end_token_ids:
            spans[name][-1] = spans[name][-1]._replace(purpose="end")
    return spans


def _spans(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, purpose: TokenPurpose) -> list[TokenSpan]:
    spans: list[TokenSpan] = []
    pending: list[int] = []
    for token in ids:
        pending.append(token)
        text = _text_within(tokenizer, tuple(pending))
        if text.endswith("\ufffd") and len(pending) < MAX_CHARACTER_TOKENS:
            continue
        spans.append(TokenSpan(tuple(pending), text, purpose))
        pending = []
    if pending:
        spans.append(TokenSpan(tuple(pending), tokenizer.decode(pending), purpose))
    return _mask_secrets(spans)


@lru_cache(maxsize=1 << 16)  # most tokens of a dataset occur many times
def _text_within(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> str:
    """The text of tokens that follow another one: some decoders drop a first space."""
    anchor = _anchor(tokenizer)
    text: str = tokenizer.decode([*anchor, *ids], clean_up_tokenization_spaces=False)
    return text[len(tokenizer.decode(anchor)) :]


@lru_cache(maxsize=4)
def _anchor(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return list(tokenizer("a", add_special_tokens=False)["input_ids"][-1:])


def _mask_secrets(spans: list[TokenSpan]) -> list[TokenSpan]:
    """The spans without secrets: a secret of several tokens becomes one span."""
    text = "".join(span.text for span in spans)
    if (cleaned := redact_record(text)) == text:
        return spans
    start, end, replacement = find_change(text, cleaned)
    first = 0
    while first < len(spans) - 1 and start >= len(spans[first].text):
        start, end = start - len(spans[first].text), end - len(spans[first].text)
        first += 1
    inside = ""
    for last in range(first, len(spans)):
        inside += spans[last].text
        if len(inside) >= end:
            break
    ids = sum(len(span.ids) for span in spans[first : last + 1])
    masked = TokenSpan((None,) * ids, inside[:start] + replacement + inside[end:], spans[first].purpose)
    return [*spans[:first], masked, *spans[last + 1 :]]
