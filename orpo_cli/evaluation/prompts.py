"""Prompts for generation, with the same token ids as in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orpo_cli.data.pair import Message, Pair, RowRejected, text_with_system
from orpo_cli.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """Prompt to generate from. ``text``: its last message, to show; ``messages``: None for plain text."""

    text: str
    input_ids: list[int]
    messages: list[dict[str, str]] | None = None
    id: Any = None  # of the row in the prompt file, to find its answer
    leaves_tools_out: bool = False  # the row has tools that are not in the text

    def record(self) -> dict[str, Any]:
        """The prompt in a row of an answer file."""
        return {**({} if self.id is None else {"id": self.id}), "prompt": self.text, "messages": self.messages}


class PromptBuilder:
    """Builder of prompts for one tokenizer, with its chat template or, with ``plain``, as plain text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, plain: bool) -> None:
        from orpo_cli.data.pair_encoder import PairEncoder

        self.plain = plain
        self._encoder = PairEncoder(tokenizer)
        self.end_token_ids = self._encoder.end_token_ids  # ids of the tokens that end a completion in training

    def from_text(self, text: str, system: str | None = None) -> Prompt:
        """Prompt of one text: a user message, or with ``plain`` the text to continue, after the system text as in training."""
        if not text.strip():
            raise UsageError("the prompt is empty.", remedy="Give a text.")
        if not self.plain:
            return self.from_messages([*([Message("system", system)] if system else []), Message("user", text)])
        full = text_with_system(text, system or "")
        _check_is_text(full)
        return Prompt(text, self._encode(Pair(full, "a", "b"))[0])

    def from_messages(self, messages: Sequence[Message], tools: tuple[dict[str, Any], ...] | None = None) -> Prompt:
        """Prompt for the next assistant message, which may call ``tools``.

        Raises UsageError where the last message is not of the user or a tool, or the template cannot render ``messages``.
        """
        if messages[-1].role not in ("user", "tool"):
            raise UsageError(
                f"the conversation ends with a message of the role {messages[-1].role}.",
                remedy="End it with the message of the user, or of a tool, that the model answers.",
            )
        for message in messages:
            _check_is_text(message.content)
        placeholders = tuple((Message("assistant", text),) for text in "ab")  # a pair needs two completions
        ids, notes = self._encode(Pair(tuple(messages), placeholders[0], placeholders[1], tools=tools))
        conversation = [message.as_dict() for message in messages]
        return Prompt(messages[-1].content, ids, conversation, leaves_tools_out="tools_not_rendered" in notes)

    def _encode(self, pair: Pair) -> tuple[list[int], tuple[str, ...]]:
        """Token ids of the prompt, and the names of the notes on its text."""
        (texts,) = self._encoder.render([pair])
        if isinstance(texts, RowRejected):
            raise UsageError(
                f"the chat template cannot render this conversation ({texts.reason}): {texts.detail}",
                remedy="Some templates support no system message: remove --system.",
            ) from texts
        return self._encoder.tokenize([texts])[0].prompt, texts.notes


def _check_is_text(text: str) -> None:
    """Raise UsageError for bytes of an argument or of standard input that are no text, which a tokenizer refuses."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"the prompt or the system message is not UTF-8 text: {text[error.start]!a} at character {error.start + 1}.",
            remedy="Give it in UTF-8.",
        ) from error


def check_prompts_available(name: str, has_held_out: bool, *, texts: Sequence[str], file: str | None) -> None:
    """Raise UsageError where no prompt is given or held out. Called before a model is loaded."""
    if not texts and file is None and not has_held_out:
        raise UsageError(f"{name} has no held-out prompts.", remedy="Give prompts: --prompt TEXT, or --prompts FILE.")
