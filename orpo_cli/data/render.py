"""Pairs as the texts that are tokenized: through the chat template, or as they are.

The reference is inference: the prompt of a conversation is what ``apply_chat_template(…, add_generation_prompt=True)``
renders, so the model is trained on the very tokens it is asked with. An answer is what the template puts after that prompt,
up to and with the token that ends its turn; what templates add behind that token (ChatML's line break, Phi's second end)
is cut off, since a model that has stopped never says it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from orpo_cli.data.pair import Message, Misfit, Pair
from orpo_cli.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "an answer to look for"  # stands in for an answer where a template is asked what it puts around one
NO_TEMPLATE = "Set model.chat_template to chatml, zephyr, llama3, mistral, gemma, or to the path of a .jinja file."


class Texts(NamedTuple):
    """What is tokenized. Answers end in the end token where the template or the text has one, else without."""

    prompt: str
    chosen: str
    rejected: str
    is_plain: bool  # no chat template: the tokenizer's own beginning of text goes in front
    shortened: bool  # the template's generation prompt holds more than its finished conversations do


@dataclass(frozen=True)
class Renderer:
    """Renders pairs for one tokenizer. Build one with ``renderer``.

    ``end_token`` is what the template ends an answer with, None where it has nothing; ``problem`` says why conversations
    cannot be rendered at all, where they cannot.
    """

    tokenizer: PreTrainedTokenizerBase
    problem: str | None
    suffix: str  # all that the template puts behind an answer
    end_token: str | None
    end_tokens: tuple[str, ...]  # every token that counts as an end of answer, the EOS among them
    special: re.Pattern[str]

    def render(self, pair: Pair) -> Texts:
        """The texts of a pair.

        Raises Misfit for a conversation that the template cannot show, UsageError where it can show none.
        """
        (texts,) = self.render_all([pair])
        if isinstance(texts, Misfit):
            raise texts
        return texts

    def render_all(self, pairs: Sequence[Pair]) -> list[Texts | Misfit]:
        """The texts of each pair, or why a template cannot show it. Raises UsageError where it can show none."""
        texts: list[Texts | Misfit | None] = [
            self._plain(pair) if isinstance(pair.prompt, str) else None for pair in pairs
        ]
        open_ = [index for index, text in enumerate(texts) if text is None]
        if open_ and self.problem is not None:
            raise UsageError(self.problem, remedy=NO_TEMPLATE)
        for index, text in zip(open_, self._conversations([pairs[index] for index in open_]), strict=True):
            texts[index] = text
        return texts  # type: ignore[return-value]

    def _plain(self, pair: Pair) -> Texts:
        return Texts(pair.prompt_text, self._ended(pair.chosen_text), self._ended(pair.rejected_text), True, False)

    def _conversations(self, pairs: Sequence[Pair]) -> list[Texts | Misfit]:
        """All at once, since each call of the template costs as much as a few conversations; one by one where one fails."""
        spelled = [self._special_token(pair) for pair in pairs]
        fine = [pair for pair, found in zip(pairs, spelled, strict=True) if found is None]
        try:
            rendered: Iterator[Texts | Misfit] = iter(self._together(fine))
        except _template_errors():
            rendered = (self._alone(pair) for pair in fine)
        return [next(rendered) if found is None else Misfit("special_token_text", found) for found in spelled]

    def _together(self, pairs: Sequence[Pair]) -> list[Texts | Misfit]:
        if not pairs:
            return []
        histories = [[message._asdict() for message in pair.prompt if isinstance(message, Message)] for pair in pairs]
        prompts = self._template(histories, add_generation_prompt=True)
        chosen = self._answered(histories, [pair.chosen_text for pair in pairs])
        rejected = self._answered(histories, [pair.rejected_text for pair in pairs])
        return [self._texts(*each) for each in zip(histories, prompts, chosen, rejected, strict=True)]

    def _alone(self, pair: Pair) -> Texts | Misfit:
        try:
            return self._together([pair])[0]
        except _template_errors() as error:
            return Misfit("template_error", str(error))

    def _texts(self, history: list[dict[str, str]], prompt: str, *wholes: str) -> Texts | Misfit:
        shortened = not all(whole.startswith(prompt) for whole in wholes)
        if shortened:  # a thinking template: cut where the answer begins in a finished conversation
            prompt = self._answered([history], [PROBE])[0].rpartition(PROBE)[0]
        if not all(whole.startswith(prompt) for whole in wholes):
            return Misfit("template_mismatch")
        chosen, rejected = (self._cut(whole[len(prompt) :]) for whole in wholes)
        return Texts(prompt, chosen, rejected, False, shortened)

    def _answered(self, histories: list[list[dict[str, str]]], answers: list[str]) -> list[str]:
        """The conversations with an answer each, as the template shows them when they are finished."""
        return self._template(
            [
                [*history, {"role": "assistant", "content": answer}]
                for history, answer in zip(histories, answers, strict=True)
            ]
        )

    def _template(self, conversations: list[list[dict[str, str]]], *, add_generation_prompt: bool = False) -> list[str]:
        return list(
            self.tokenizer.apply_chat_template(
                conversations, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )

    def _cut(self, answer: str) -> str:
        """``answer`` up to and with its end token; without what the template adds where there is none."""
        if self.end_token is None:
            return answer.removesuffix(self.suffix)
        at = answer.rfind(self.end_token)
        return answer if at < 0 else answer[: at + len(self.end_token)]

    def _ended(self, text: str) -> str:
        """A plain answer; white space behind an end token that its text spells is cut."""
        stripped = text.rstrip()
        return stripped if stripped.endswith(self.end_tokens) else text

    def _special_token(self, pair: Pair) -> str | None:
        """The first special token that a message spells: ``<|im_end|>`` would end a turn; only templates may do that."""
        for message in (*pair.prompt, *pair.chosen, *pair.rejected):
            if isinstance(message, Message) and (found := self.special.search(message.content)):
                return found.group()
        return None


def renderer(tokenizer: PreTrainedTokenizerBase) -> Renderer:
    """Ask the tokenizer's chat template how it ends an answer. Raises UsageError where no token can end one."""
    problem, suffix = None, ""
    try:
        suffix = _suffix(tokenizer)
    except UsageError as error:
        problem = error.message
    end_token = _first_marker(tokenizer, suffix)
    end_tokens = tuple(token for token in dict.fromkeys((end_token, tokenizer.eos_token)) if token)
    if not end_tokens:
        raise UsageError("the tokenizer has no EOS token, and no template ends an answer with one.", remedy=NO_TEMPLATE)
    special = sorted({*_special_tokens(tokenizer), *end_tokens}, key=len, reverse=True)
    return Renderer(tokenizer, problem, suffix, end_token, end_tokens, re.compile("|".join(map(re.escape, special))))


def _template_errors() -> tuple[type[Exception], ...]:
    """What a template raises on purpose (raise_exception) and what it stumbles over."""
    from jinja2 import TemplateError

    return (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError)


def _suffix(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template puts behind the last answer of a conversation. Raises UsageError where it shows none."""
    if tokenizer.chat_template is None:
        name = f"the tokenizer {tokenizer.name_or_path}" if tokenizer.name_or_path else "the tokenizer"
        raise UsageError(f"{name} has no chat template, and the data is conversations.", remedy=NO_TEMPLATE)
    system, user, answer = ({"role": role, "content": PROBE} for role in ("system", "user", "assistant"))
    error: Exception | None = None
    for conversation in ([user, answer], [system, user, answer]):
        try:
            return str(tokenizer.apply_chat_template(conversation, tokenize=False)).rpartition(PROBE)[2]
        except _template_errors() as failed:
            error = error or failed
    raise UsageError(f"the chat template cannot render a question and an answer: {error}", remedy=NO_TEMPLATE)


def _first_marker(tokenizer: PreTrainedTokenizerBase, suffix: str) -> str | None:
    """The first token of ``suffix`` that is special or added: an ordinary word ends nothing."""
    markers: dict[int, Any] = {index: token.content for index, token in tokenizer.added_tokens_decoder.items()}
    markers |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    for token in tokenizer(suffix, add_special_tokens=False)["input_ids"]:
        if str(markers.get(token, "")).strip():
            return str(markers[token])
    return None


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return [token for token in {*added, *tokenizer.all_special_tokens} if token.strip()]
