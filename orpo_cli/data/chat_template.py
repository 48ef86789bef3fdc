"""Chat template rendering: the prompt and the two completions of a pair as texts.

The reference is inference. The prompt of a conversation is what ``apply_chat_template(…, add_generation_prompt=True)``
renders, so training uses the same prompt tokens as generation. A completion is what the template writes after that prompt, up
to and including the token that ends the turn. Text after the end-of-turn token (ChatML's line break, Phi's second end token)
is dropped: the model never generates it.

Only a template may write special tokens. Where a message contains the text of one (``what does <|im_end|> mean?``), a
placeholder character passes through the template instead, and the tokenizer encodes the text as ordinary tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from orpo_cli.data.pair import Message, Pair, RowRejected
from orpo_cli.data.rendering_notes import rendering_notes
from orpo_cli.errors import OrpoError, UsageError
from orpo_cli.model.added_tokens import named_special_tokens
from orpo_cli.model.chat_template_errors import (
    NO_TEMPLATE,
    PROBE,
    THINKING_TAGS,
    ChatTemplateError,
    completion_suffix,
    describe_template_error,
    ignores_generation_prompt,
    template_errors,
    tool_call_suffix,
)
from orpo_cli.model.chat_template_limits import limit_chat_templates, render_conversations
from orpo_cli.model.chat_template_watch import ChatTemplateLimit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACEHOLDERS = range(0xF0000, 0xFFFFE)  # private use characters: templates ignore them, texts hardly ever contain them


Conversation = list[dict[str, Any]]  # messages as templates take them


class PairTexts(NamedTuple):
    """Texts to tokenize. A completion ends in the end token where the template or the text has one."""

    prompt: str
    chosen: str
    rejected: str
    is_plain: bool  # no chat template: the tokenizer's beginning-of-text token is added in front
    notes: tuple[str, ...] = ()  # names of report.NOTES
    placeholders: Mapping[str, str] = MappingProxyType({})  # placeholder → the special token that a message contains


class SafeMessages(NamedTuple):
    """Messages of a pair as templates take them, with a placeholder for each special token that they contain."""

    history: Conversation
    chosen: dict[str, Any]
    rejected: dict[str, Any]
    placeholders: Mapping[str, str]  # placeholder → special token

    @property
    def all(self) -> Conversation:
        """Every message."""
        return [*self.history, self.chosen, self.rejected]


class TemplateLimitOfPair(ChatTemplateError):
    """The chat template exceeds a limit on ``pair``."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, limit: ChatTemplateLimit, pair: Pair) -> None:
        super().__init__(tokenizer, describe_template_error(limit))
        self.pair = pair


class ChatTemplateRenderer:
    """Renderer of pairs for one tokenizer. Raises UsageError where no token can end a completion.

    ``end_tokens``: every token that ends a completion, the EOS token among them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._template_error: OrpoError | None = None  # why no conversation can be rendered
        self._suffix = ""  # what the template writes after a completion
        self._ignores_generation_prompt = False
        self._renders_directly = _has_common_rendering(tokenizer)
        limit_chat_templates()
        try:
            self._suffix = completion_suffix(tokenizer)
            self._ignores_generation_prompt = ignores_generation_prompt(tokenizer)
        except (UsageError, ChatTemplateError) as error:
            self._template_error = error
        self._end_token = _first_special_token(tokenizer, self._suffix)  # the template's; None where it writes none
        ends = (self._end_token, tokenizer.eos_token, _call_end_token(tokenizer, self._end_token))
        self.end_tokens = tuple(each for each in dict.fromkeys(ends) if each)
        if not self.end_tokens:
            raise UsageError(
                "the tokenizer has no EOS token, and its chat template ends no completion with a special token.",
                remedy=NO_TEMPLATE,
            )
        special = {*_special_tokens(tokenizer), *self.end_tokens}
        special -= {*THINKING_TAGS}  # templates look for them in the text of answers
        longest_first = sorted(special, key=len, reverse=True)
        self._special_token_pattern = re.compile("|".join(map(re.escape, longest_first)))

    def render(self, pairs: Sequence[Pair]) -> list[PairTexts | RowRejected]:
        """Texts of each pair, or why the template cannot render it.

        Raises UsageError where there is no template, ChatTemplateError where it can render none, TemplateLimitOfPair where it
        exceeds a limit.
        """
        conversations = [pair for pair in pairs if not isinstance(pair.prompt, str)]
        if conversations and self._template_error is not None:
            raise self._template_error
        rendered = iter(self._render_conversations(conversations))
        return [self._render_plain(pair) if isinstance(pair.prompt, str) else next(rendered) for pair in pairs]

    def _render_plain(self, pair: Pair) -> PairTexts:
        """Texts of the pair, without white space after the end token that a completion contains."""
        chosen, rejected = (
            stripped if (stripped := text.rstrip()).endswith(self.end_tokens) else text
            for text in (pair.chosen_text, pair.rejected_text)
        )
        return PairTexts(pair.prompt_text, chosen, rejected, is_plain=True)

    def _render_conversations(self, pairs: Sequence[Pair]) -> Sequence[PairTexts | RowRejected]:
        """In one call of the template, since a call costs as much as a few conversations.

        One by one where a conversation fails or has tools.
        """
        if not pairs:
            return []
        if len(pairs) == 1 or not any(pair.tools for pair in pairs):
            try:
                return self._render_batch(pairs)
            except ChatTemplateLimit as error:
                if len(pairs) == 1:
                    raise TemplateLimitOfPair(self.tokenizer, error, pairs[0]) from error
            except template_errors() as error:
                if len(pairs) == 1:
                    return [RowRejected("template_error", describe_template_error(error))]
        return [texts for pair in pairs for texts in self._render_conversations([pair])]

    def _render_batch(self, pairs: Sequence[Pair]) -> list[PairTexts | RowRejected]:
        """Texts of pairs that have the same tools."""
        tools = pairs[0].tools
        safe = [self._with_placeholders(pair) for pair in pairs]
        plain = all(_is_plain(each) for messages in safe for each in messages.all)
        prompts = self._apply_chat_template([each.history for each in safe], tools, plain, add_generation_prompt=True)
        chosen = self._apply_chat_template([[*each.history, each.chosen] for each in safe], tools, plain)
        rejected = self._apply_chat_template([[*each.history, each.rejected] for each in safe], tools, plain)
        return [
            self._split_completions(pair, messages, *texts)
            for pair, messages, *texts in zip(pairs, safe, prompts, chosen, rejected, strict=True)
        ]

    def _split_completions(
        self, pair: Pair, messages: SafeMessages, prompt: str, *rendered: str
    ) -> PairTexts | RowRejected:
        """``rendered``: the two conversations, each with its completion."""
        shortened = not all(text.startswith(prompt) for text in rendered)
        if shortened:
            prompt = self._shortened_prompt(messages.history, pair.tools, prompt, rendered)
        if not all(text.startswith(prompt) for text in rendered):
            return RowRejected("template_mismatch")
        for completion, text in zip((pair.chosen, pair.rejected), rendered, strict=True):
            missing = _unrendered_tool_call((*pair.prompt, *completion), text)
            if missing is not None:
                return RowRejected("template_error", f"it does not render the call of {missing}")
        chosen, rejected = (self._truncate_after_end_token(text[len(prompt) :]) for text in rendered)
        answers = (messages.chosen, messages.rejected)
        notes = rendering_notes(messages.history, answers, pair.tools, prompt, (chosen, rejected))
        notes += ("generation_prompt_shortened",) * shortened
        notes += ("generation_prompt_ignored",) * self._ignores_generation_prompt
        return PairTexts(prompt, chosen, rejected, False, notes, messages.placeholders)

    def _shortened_prompt(
        self, history: Conversation, tools: Sequence[dict[str, Any]] | None, prompt: str, rendered: Sequence[str]
    ) -> str:
        """Prompt where the generation prompt of a reasoning template has more than a finished conversation.

        It ends where the completion begins in a finished conversation. Where one answer has reasoning and the other has none, that
        differs, and the prompt ends at the first difference.
        """
        probe = [*history, {"role": "assistant", "content": PROBE}]
        plain = all(map(_is_plain, probe))
        finished = self._apply_chat_template([probe], tools, plain)[0].rpartition(PROBE)[0]
        if all(text.startswith(finished) for text in rendered):
            return finished
        common = _common_start([prompt, *rendered])
        (without_header,) = self._apply_chat_template([history], tools, plain)
        return common if len(common) > len(without_header) and common.startswith(without_header) else finished

    def _with_placeholders(self, pair: Pair) -> SafeMessages:
        """Messages of the pair with a placeholder for each special token that they contain."""
        history = [message.as_dict() for message in pair.prompt if isinstance(message, Message)]
        chosen, rejected = (
            completion[-1].as_dict() if isinstance(completion[-1], Message) else {}
            for completion in (pair.chosen, pair.rejected)
        )
        messages = (*pair.prompt, *pair.chosen[-1:], *pair.rejected[-1:])
        if any(isinstance(each, str) or each.extra for each in messages):
            texts = list(_iter_strings([history, chosen, rejected]))
        else:
            texts = [text for role, content, _ in messages for text in (role, content)]
        found = dict.fromkeys(self._special_token_pattern.findall("\0".join(texts)))
        if not found:
            return SafeMessages(history, chosen, rejected, MappingProxyType({}))
        unused = (chr(code) for code in PLACEHOLDERS if not any(chr(code) in text for text in texts))
        placeholder_of = dict(zip(found, unused, strict=False))

        def replace(value: Any) -> Any:
            if isinstance(value, str):
                return self._special_token_pattern.sub(lambda match: placeholder_of[match.group()], value)
            if isinstance(value, dict):
                return {key: replace(each) for key, each in value.items()}
            return [replace(each) for each in value] if isinstance(value, list) else value

        token_of = {placeholder: token for token, placeholder in placeholder_of.items()}
        return SafeMessages(replace(history), replace(chosen), replace(rejected), token_of)

    def _apply_chat_template(
        self, conversations: list[Conversation], tools: Sequence[dict[str, Any]] | None, plain: bool, **options: bool
    ) -> list[str]:
        """``plain``: all messages of the conversations are (``_is_plain``)."""
        functions = list(tools) if tools else None
        if functions is None and plain and self._renders_directly:
            variables = {"tools": None, "documents": None, "add_generation_prompt": False}
            variables |= {**self.tokenizer.special_tokens_map, **options}
            from transformers.utils import chat_template_utils

            template = chat_template_utils._compile_jinja_template(self.tokenizer.get_chat_template())
            return render_conversations(template, conversations, variables)
        return list(self.tokenizer.apply_chat_template(conversations, tools=functions, tokenize=False, **options))

    def _truncate_after_end_token(self, completion: str) -> str:
        """``completion`` up to and including its end token; without the template's suffix where it has none."""
        if self._end_token is None:
            return completion.removesuffix(self._suffix)
        at = completion.rfind(self._end_token)
        return completion if at < 0 else completion[: at + len(self._end_token)]


def _has_common_rendering(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether ``apply_chat_template`` is that of transformers. For messages of role and content it only renders the template.

    Its checks and copies, which messages with other keys need, take as long as the rendering.
    """
    from transformers import PreTrainedTokenizerBase

    names = ("apply_chat_template", "get_chat_template")
    unchanged = all(getattr(type(tokenizer), name) is getattr(PreTrainedTokenizerBase, name) for name in names)
    return unchanged and not {*names} & vars(tokenizer).keys()


def _is_plain(message: dict[str, Any]) -> bool:
    """Whether a message has a role and a content alone, both texts."""
    return len(message) == 2 and type(message.get("role")) is str and type(message.get("content")) is str


def _common_start(texts: Sequence[str]) -> str:
    lowest, highest = min(texts), max(texts)
    differing = (at for at, (low, high) in enumerate(zip(lowest, highest, strict=False)) if low != high)
    return lowest[: next(differing, len(lowest))]


def _iter_strings(value: Any) -> Iterator[str]:
    """Every string within lists and dicts, in any order."""
    stack = [value]
    while stack:
        here = stack.pop()
        if isinstance(here, str):
            yield here
        elif isinstance(here, dict):
            stack += here.values()
        elif isinstance(here, list):
            stack += here


def _unrendered_tool_call(messages: Sequence[Message | str], text: str) -> str | None:
    """Name of the first called tool that is missing from ``text``: the template does not support tool calls."""
    names = (
        call["function"]["name"] for message in messages if isinstance(message, Message) for call in message.tool_calls
    )
    return next((name for name in names if name not in text), None)


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Tokens that only the template may write: not those that a recipe adds for the texts of the data, which are not special."""
    is_special = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
    others = [token for token in tokenizer.all_special_tokens if is_special.get(token, True)]
    added = [token for token, special in is_special.items() if special]
    return {*filter(str.strip, (*named_special_tokens(tokenizer), *added, *others))}


def _call_end_token(tokenizer: PreTrainedTokenizerBase, end_token: str | None) -> str | None:
    """Special token that ends a tool call in place of ``end_token``: gpt-oss ends an answer with <|return|>, a call with <|call|>."""
    suffix = tool_call_suffix(tokenizer).rstrip() if end_token else ""
    if not suffix or str(end_token) in suffix:
        return None
    return next((token for token in _special_tokens(tokenizer) if suffix.endswith(token)), None)


def _first_special_token(tokenizer: PreTrainedTokenizerBase, suffix: str) -> str | None:
    """First special or added token of ``suffix``: an ordinary token ends no completion."""
    special: dict[int, Any] = {index: token.content for index, token in tokenizer.added_tokens_decoder.items()}
    special |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    for token in tokenizer(suffix, add_special_tokens=False)["input_ids"]:
        if str(special.get(token, "")).strip():
            return str(special[token])
    return None
