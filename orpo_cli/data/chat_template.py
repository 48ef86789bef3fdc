"""Pairs as the texts that are tokenized: through the chat template, or as they are.

The reference is inference: the prompt of a conversation is what ``apply_chat_template(…, add_generation_prompt=True)``
renders, so the model is trained on the very tokens it is asked with. An answer is what the template puts after that prompt,
up to and with the token that ends its turn; what templates add behind that token (ChatML's line break, Phi's second end)
is cut off, since a model that has stopped never says it.

Only a template may write special tokens. Where a message spells one (``what does <|im_end|> mean?``), a stand-in goes through
the template in its place, and the tokenizer spells it in ordinary tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from orpo_cli.data.pair import Message, Pair, RowRejected
from orpo_cli.errors import UsageError
from orpo_cli.model.builtin_chat_templates import BUILTIN_CHAT_TEMPLATES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "an answer to look for"  # stands in for an answer where a template is asked what it puts around one
PLACEHOLDERS = range(0xF0000, 0xFFFFE)  # characters for private use: no template looks at them, hardly a text holds one
NO_TEMPLATE = f"Set model.chat_template to {', '.join(BUILTIN_CHAT_TEMPLATES)}, or to the path of a .jinja file."


Conversation = list[dict[str, Any]]  # messages as templates take them


class PairTexts(NamedTuple):
    """What is tokenized. Answers end in the end token where the template or the text has one, else without."""

    prompt: str
    chosen: str
    rejected: str
    is_plain: bool  # no chat template: the tokenizer's own beginning of text goes in front
    generation_prompt_shortened: bool = (
        False  # the template's generation prompt holds more than its finished conversations do
    )
    placeholders: Mapping[str, str] = MappingProxyType({})  # stand-in → the special token that a message spells


@dataclass(frozen=True)
class ChatTemplateRenderer:
    """Renders pairs for one tokenizer. Build one with ``renderer``.

    ``end_token`` is what the template ends an answer with, None where it has nothing; ``problem`` says why conversations
    cannot be rendered at all, where they cannot.
    """

    tokenizer: PreTrainedTokenizerBase
    template_error: str | None
    suffix: str  # all that the template puts behind an answer
    end_token: str | None
    end_tokens: tuple[str, ...]  # every token that counts as an end of answer, the EOS among them
    special_token_pattern: re.Pattern[str]

    def render(self, pair: Pair) -> PairTexts:
        """The texts of a pair.

        Raises RowRejected for a conversation that the template cannot show, UsageError where it can show none.
        """
        (texts,) = self.render_all([pair])
        if isinstance(texts, RowRejected):
            raise texts
        return texts

    def render_all(self, pairs: Sequence[Pair]) -> list[PairTexts | RowRejected]:
        """The texts of each pair, or why a template cannot show it. Raises UsageError where it can show none."""
        texts: list[PairTexts | RowRejected | None] = [
            self._render_plain(pair) if isinstance(pair.prompt, str) else None for pair in pairs
        ]
        open_ = [index for index, text in enumerate(texts) if text is None]
        if open_ and self.template_error is not None:
            raise UsageError(self.template_error, remedy=NO_TEMPLATE)
        for index, text in zip(open_, self._render_conversations([pairs[index] for index in open_]), strict=True):
            texts[index] = text
        return texts  # type: ignore[return-value]

    def _render_plain(self, pair: Pair) -> PairTexts:
        return PairTexts(
            pair.prompt_text,
            self._strip_after_end_token(pair.chosen_text),
            self._strip_after_end_token(pair.rejected_text),
            is_plain=True,
        )

    def _render_conversations(self, pairs: Sequence[Pair]) -> Sequence[PairTexts | RowRejected]:
        """All at once, since each call of the template costs as much as a few conversations; one by one where one fails, or
        has tools of its own.
        """
        if not pairs:
            return []
        if len(pairs) > 1 and any(pair.tools for pair in pairs):
            return [texts for pair in pairs for texts in self._render_conversations([pair])]
        try:
            return self._render_batch(pairs)
        except _template_errors() as error:
            if len(pairs) == 1:
                return [RowRejected("template_error", str(error))]
            return [texts for pair in pairs for texts in self._render_conversations([pair])]

    def _render_batch(self, pairs: Sequence[Pair]) -> list[PairTexts | RowRejected]:
        """The texts of pairs that have the same tools."""
        tools = list(pairs[0].tools) if pairs[0].tools else None
        safe = [self._with_placeholders(pair) for pair in pairs]
        histories = [history for history, *_ in safe]
        prompts = self._apply_chat_template(histories, tools, add_generation_prompt=True)
        chosen = self._apply_chat_template([[*history, answer] for history, answer, _, _ in safe], tools)
        rejected = self._apply_chat_template([[*history, answer] for history, _, answer, _ in safe], tools)
        return [
            self._split_completions(pair, history, spelled, *texts)
            for pair, (history, _, _, spelled), *texts in zip(pairs, safe, prompts, chosen, rejected, strict=True)
        ]

    def _split_completions(
        self, pair: Pair, history: Conversation, spelled: Mapping[str, str], prompt: str, *wholes: str
    ) -> PairTexts | RowRejected:
        shortened = not all(whole.startswith(prompt) for whole in wholes)
        if shortened:  # a thinking template: cut where the answer begins in a finished conversation
            probe = [*history, {"role": "assistant", "content": PROBE}]
            prompt = self._apply_chat_template([probe], list(pair.tools) if pair.tools else None)[0].rpartition(PROBE)[
                0
            ]
        if not all(whole.startswith(prompt) for whole in wholes):
            return RowRejected("template_mismatch")
        for answer, whole in zip((pair.chosen, pair.rejected), wholes, strict=True):
            unseen = _unrendered_tool_call((*pair.prompt, *answer), whole)
            if unseen is not None:
                return RowRejected("template_error", f"it does not show the call of {unseen}")
        chosen, rejected = (self._truncate_after_end_token(whole[len(prompt) :]) for whole in wholes)
        return PairTexts(prompt, chosen, rejected, False, shortened, spelled)

    def _with_placeholders(self, pair: Pair) -> tuple[Conversation, dict[str, Any], dict[str, Any], Mapping[str, str]]:
        """History, chosen and rejected answer with no special token in any message, and what stands for which."""
        history = [message.as_dict() for message in pair.prompt if isinstance(message, Message)]
        chosen, rejected = (
            answer[-1].as_dict() if isinstance(answer[-1], Message) else {} for answer in (pair.chosen, pair.rejected)
        )
        texts = list(_iter_strings([history, chosen, rejected]))
        found = dict.fromkeys(self.special_token_pattern.findall("\0".join(texts)))
        if not found:
            return history, chosen, rejected, MappingProxyType({})
        free = (chr(code) for code in PLACEHOLDERS if not any(chr(code) in text for text in texts))
        stand_ins = dict(zip(found, free, strict=False))

        def safe(value: Any) -> Any:
            if isinstance(value, str):
                return self.special_token_pattern.sub(lambda spelled: stand_ins[spelled.group()], value)
            if isinstance(value, dict):
                return {key: safe(each) for key, each in value.items()}
            return [safe(each) for each in value] if isinstance(value, list) else value

        return safe(history), safe(chosen), safe(rejected), {sign: token for token, sign in stand_ins.items()}

    def _apply_chat_template(
        self,
        conversations: list[Conversation],
        tools: list[dict[str, Any]] | None,
        *,
        add_generation_prompt: bool = False,
    ) -> list[str]:
        return list(
            self.tokenizer.apply_chat_template(
                conversations, tools=tools, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )

    def _truncate_after_end_token(self, answer: str) -> str:
        """``answer`` up to and with its end token; without what the template adds where there is none."""
        if self.end_token is None:
            return answer.removesuffix(self.suffix)
        at = answer.rfind(self.end_token)
        return answer if at < 0 else answer[: at + len(self.end_token)]

    def _strip_after_end_token(self, text: str) -> str:
        """A plain answer; white space behind an end token that its text spells is cut."""
        stripped = text.rstrip()
        return stripped if stripped.endswith(self.end_tokens) else text


def renderer(tokenizer: PreTrainedTokenizerBase) -> ChatTemplateRenderer:
    """Ask the tokenizer's chat template how it ends an answer. Raises UsageError where no token can end one."""
    problem, suffix = None, ""
    try:
        suffix = _completion_suffix(tokenizer)
    except UsageError as error:
        problem = error.message
    end_token = _first_special_token(tokenizer, suffix)
    end_tokens = tuple(token for token in dict.fromkeys((end_token, tokenizer.eos_token)) if token)
    if not end_tokens:
        raise UsageError("the tokenizer has no EOS token, and no template ends an answer with one.", remedy=NO_TEMPLATE)
    special = sorted({*_special_tokens(tokenizer), *end_tokens}, key=len, reverse=True)
    return ChatTemplateRenderer(
        tokenizer, problem, suffix, end_token, end_tokens, re.compile("|".join(map(re.escape, special)))
    )


def _iter_strings(value: Any) -> Iterator[str]:
    """Every text within lists and dicts, in any order."""
    open_ = [value]
    while open_:
        here = open_.pop()
        if isinstance(here, str):
            yield here
        elif isinstance(here, dict):
            open_ += here.values()
        elif isinstance(here, list):
            open_ += here


def _unrendered_tool_call(messages: Sequence[Message | str], text: str) -> str | None:
    """The name of the first tool that the messages call and the text does not name: the template has no place for calls."""
    names = (
        call["function"]["name"] for message in messages if isinstance(message, Message) for call in message.tool_calls
    )
    return next((name for name in names if name not in text), None)


def _template_errors() -> tuple[type[Exception], ...]:
    """What a template raises on purpose (raise_exception) and what it stumbles over."""
    from jinja2 import TemplateError

    return (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError)


def _completion_suffix(tokenizer: PreTrainedTokenizerBase) -> str:
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


def _first_special_token(tokenizer: PreTrainedTokenizerBase, suffix: str) -> str | None:
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
