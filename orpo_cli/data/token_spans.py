"""The tokens of a pair as people read them, each with what it is for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TokenRole = Literal["prompt", "prompt_nll", "chosen", "rejected", "end"]


class TokenSpan(NamedTuple):
    """A token, or several that make up one character. ``text`` is what it adds to the text."""

    ids: tuple[int, ...]
    text: str
    purpose: TokenRole


def token_spans(
    row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, end_ids: frozenset[int], *, loss_on_prompt: bool
) -> dict[str, list[TokenSpan]]:
    """The prompt and both answers of a row of the trainer's dataset.

    The NLL is taken over the chosen answer, and with ``loss_on_prompt`` over the prompt; the odds ratio over both answers.
    """
    prompt = row["prompt_input_ids"]
    parts: dict[str, list[TokenSpan]] = {
        "prompt": _spans(prompt, tokenizer, "prompt_nll" if loss_on_prompt else "prompt")
    }
    for name in ("chosen", "rejected"):
        answer = row[f"{name}_input_ids"][len(prompt) :]
        found = _spans(answer, tokenizer, name)
        if answer and answer[-1] in end_ids:
            found[-1] = found[-1]._replace(purpose="end")
        parts[name] = found
    return parts


def _spans(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, purpose: TokenRole) -> list[TokenSpan]:
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]  # before it some decoders drop a space
    before = tokenizer.decode(anchor)
    pieces: list[TokenSpan] = []
    waiting: list[int] = []
    for token in ids:
        waiting.append(token)
        text = tokenizer.decode([*anchor, *waiting], clean_up_tokenization_spaces=False)[len(before) :]
        if text.endswith("\ufffd") and len(waiting) < 4:  # a character in several tokens
            continue
        pieces.append(TokenSpan(tuple(waiting), text, purpose))
        waiting = []
    if waiting:
        pieces.append(TokenSpan(tuple(waiting), tokenizer.decode(waiting), purpose))
    return pieces
