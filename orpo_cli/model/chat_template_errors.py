"""Errors of chat templates as data errors that name the template and the line, and the check of a template before it is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import DataError, UsageError
from orpo_cli.model.builtin_chat_templates import BUILTIN_CHAT_TEMPLATES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "an answer to look for"  # a completion that shows what the template writes around one
THINKING_TAGS = ("<think>", "</think>")
NO_TEMPLATE = f"Set model.chat_template to {', '.join(BUILTIN_CHAT_TEMPLATES)}, or to the path of a .jinja file."


class ChatTemplateError(DataError):
    """A chat template is invalid, or cannot render a conversation. ``reason`` with the line of the template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, reason: str) -> None:
        name = f"the chat template of {tokenizer.name_or_path}" if tokenizer.name_or_path else "the chat template"
        super().__init__(f"{name}: {reason}", remedy=NO_TEMPLATE)
        self.reason = reason


def template_errors() -> tuple[type[Exception], ...]:
    """Errors that a template raises on purpose (raise_exception) or by accident."""
    from jinja2 import TemplateError

    accidents = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError)
    return (TemplateError, *accidents)


def describe_template_error(error: Exception) -> str:
    """The error with the line of the template."""
    from orpo_cli.model.chat_template_limits import template_line

    line = template_line(error)
    text = " ".join(str(error).split()) or type(error).__name__
    return text if line is None else f"line {line}: {text}"


@contextmanager
def explain_template_errors(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Turn the errors of a rendering into ChatTemplateError. It also has the limits of chat_template_limits."""
    from orpo_cli.model.chat_template_limits import limit_chat_templates
    from orpo_cli.model.chat_template_watch import ChatTemplateLimit

    limit_chat_templates()
    try:
        yield
    except ChatTemplateLimit as error:
        raise ChatTemplateError(tokenizer, describe_template_error(error)) from error
    except template_errors() as error:
        raise ChatTemplateError(tokenizer, describe_template_error(error)) from error


def completion_suffix(tokenizer: PreTrainedTokenizerBase) -> str:
    """Text that the template writes after the last completion.

    Raises UsageError where there is no template, ChatTemplateError where it cannot render a question and an answer.
    """
    if tokenizer.chat_template is None:
        name = f"the tokenizer {tokenizer.name_or_path}" if tokenizer.name_or_path else "the tokenizer"
        raise UsageError(f"{name} has no chat template, and the data is conversations.", remedy=NO_TEMPLATE)
    system, user, assistant = ({"role": role, "content": PROBE} for role in ("system", "user", "assistant"))
    try:
        return _suffix(tokenizer, [user, assistant])
    except ChatTemplateError as error:
        try:
            return _suffix(tokenizer, [system, user, assistant])
        except ChatTemplateError:
            raise error from None


def tool_call_suffix(tokenizer: PreTrainedTokenizerBase) -> str:
    """Text that the template writes after the last argument of a tool call; empty where it writes no tool calls."""
    function = {"name": "look_up", "arguments": {"text": PROBE}}
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    if tokenizer.chat_template is None:
        return ""
    with suppress(ChatTemplateError):
        rendered = _render(tokenizer, [{"role": "user", "content": "a question"}, call])
        return rendered.rpartition(PROBE)[2] if PROBE in rendered else ""
    return ""


def text_around_messages(tokenizer: PreTrainedTokenizerBase) -> str:
    """Text that the template writes around a system, a user and an assistant message; empty where it can render neither."""
    system, user, assistant = ({"role": role, "content": PROBE} for role in ("system", "user", "assistant"))
    found = ""
    for conversation in ([system, user, assistant, user], [user, assistant, user]):
        with suppress(ChatTemplateError):
            found += _render(tokenizer, conversation, add_generation_prompt=True)
            found += _render(tokenizer, conversation[:-1])
    return found


def _suffix(tokenizer: PreTrainedTokenizerBase, conversation: list[dict[str, str]]) -> str:
    return _render(tokenizer, conversation).rpartition(PROBE)[2]


def ignores_generation_prompt(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template writes the start of an assistant's turn, but not where ``add_generation_prompt`` asks for it.

    Mistral's template has no such start: there the end of the user's turn asks for an answer.
    """
    question = [{"role": "user", "content": "a question"}]
    try:
        prompt = _render(tokenizer, question, add_generation_prompt=True)
        finished = _render(tokenizer, [*question, {"role": "assistant", "content": PROBE}])
        if prompt != _render(tokenizer, question):
            return False
    except ChatTemplateError:
        return False
    before = finished.partition(PROBE)[0]
    return before.startswith(prompt) and bool(before[len(prompt) :].strip())


def _render(tokenizer: PreTrainedTokenizerBase, conversation: Sequence[Mapping[str, Any]], **options: bool) -> str:
    with explain_template_errors(tokenizer):
        return str(tokenizer.apply_chat_template(list(conversation), tokenize=False, **options))
