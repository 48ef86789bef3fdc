"""One preference pair as every format is read into it, and what is said of a row that does not become one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from orpo_cli.errors import DataError


class Message(NamedTuple):
    """One turn of a conversation. ``role`` is system, user, assistant or tool; ``more`` is what calls to tools need."""

    role: str
    content: str
    extra: dict[str, Any] | None = None  # tool_calls of an assistant; name and tool_call_id of a tool

    def as_dict(self) -> dict[str, Any]:
        """As chat templates take it."""
        return {"role": self.role, "content": self.content, **(self.extra or {})}

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The calls that an assistant makes, as OpenAI writes them."""
        return list((self.extra or {}).get("tool_calls", ()))


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt with a better and a worse answer: three texts, or three conversations.

    Of a conversation the prompt is everything before the last message, and ``chosen`` and ``rejected`` are one assistant
    message each. Texts are concatenated as they are, without a chat template.
    """

    prompt: tuple[Message, ...] | str
    chosen: tuple[Message, ...] | str
    rejected: tuple[Message, ...] | str
    scores: tuple[float, float] | None = None  # of chosen and rejected, as the data rates them
    tools: tuple[dict[str, Any], ...] | None = None  # what the conversation may call

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
    """A text as it is; messages, and the calls they make, joined by newlines."""
    if isinstance(value, str):
        return value
    parts = (
        part
        for message in value
        for part in (message.content, *(json.dumps(call, ensure_ascii=False) for call in message.tool_calls))
    )
    return "\n".join(part for part in parts if part)


class RowRejected(DataError):
    """A row that is not trained on. Caught where rows are counted; ``reason`` is a name of ``filters.REASONS``."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.detail = detail
