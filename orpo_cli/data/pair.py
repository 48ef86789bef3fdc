"""One preference pair as every format is read into it, and what is said of a row that does not become one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from orpo_cli.errors import DataError


class Message(NamedTuple):
    """One turn of a conversation. ``role`` is system, user, assistant or tool."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt with a better and a worse answer: three texts, or three conversations.

    Of a conversation the prompt is everything before the last message, and ``chosen`` and ``rejected`` are one assistant
    message each. Texts are concatenated as they are, without a chat template.
    """

    prompt: tuple[Message, ...] | str
    chosen: tuple[Message, ...] | str
    rejected: tuple[Message, ...] | str

    @property
    def prompt_text(self) -> str:
        """The text of the prompt's last turn, or the whole prompt where it is a text."""
        return self.prompt if isinstance(self.prompt, str) else text_of(self.prompt[-1:])

    @property
    def chosen_text(self) -> str:
        """The better answer, without anything that a template adds."""
        return text_of(self.chosen)

    @property
    def rejected_text(self) -> str:
        """The worse answer, without anything that a template adds."""
        return text_of(self.rejected)


def text_of(value: tuple[Message, ...] | str) -> str:
    """A text as it is; messages joined by newlines."""
    return value if isinstance(value, str) else "\n".join(message.content for message in value)


class Misfit(DataError):
    """A row that is not trained on. Caught where rows are counted; ``reason`` is a name of ``rules.REASONS``."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.detail = detail
