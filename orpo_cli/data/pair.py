"""Preference pair: the common form of all formats, and the rejection of a row that does not become one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from orpo_cli.errors import DataError

REASONING = "reasoning_content"
REASONING_FIELDS = (REASONING, "thinking", "reasoning")  # names of the reasoning of a message, in data and in templates

SYSTEM_SEPARATOR = "\n\n"  # between the system text and the prompt of a plain text


class Message(NamedTuple):
    """Message of a conversation. ``role`` is system, user, assistant or tool; ``extra`` has its further keys."""

    role: str
    content: str
    extra: dict[str, Any] | None = None  # tool_calls and reasoning of an assistant; name and tool_call_id of a tool

    def as_dict(self) -> dict[str, Any]:
        """Message as chat templates expect it: the reasoning under each name that a template may read."""
        if not self.extra:
            return {"role": self.role, "content": self.content}
        names = REASONING_FIELDS if self.reasoning else ()
        return {
            "role": self.role,
            "content": self.content,
            **self.extra,
            **dict.fromkeys(names, self.reasoning),
        }

    @property
    def reasoning(self) -> str:
        """Reasoning that an assistant message has beside its content."""
        return str(self.extra.get(REASONING, "")) if self.extra else ""

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """Tool calls of an assistant in the OpenAI format."""
        return list(self.extra.get("tool_calls", ())) if self.extra else []


@dataclass(frozen=True, slots=True)
class Pair:
    """Prompt with a chosen and a rejected completion: three texts, or three lists of messages.

    The prompt of a conversation is everything before the last message; ``chosen`` and ``rejected`` are one assistant message
    each. Texts are concatenated without a chat template; ``text_pairs`` turns them into messages for a chat model.
    """

    prompt: tuple[Message, ...] | str
    chosen: tuple[Message, ...] | str
    rejected: tuple[Message, ...] | str
    scores: tuple[float, float] | None = None  # of chosen and rejected, from the data
    tools: tuple[dict[str, Any], ...] | None = None  # functions that the conversation may call
    weight: float | None = None  # in the loss; None: the data gives none, as 1
    rejected_prompt: tuple[Message, ...] | None = (
        None  # messages before the rejected one, where they differ from ``prompt``
    )
    system: str = ""  # system text of a pair of texts; a conversation has a system message
    prompt_is_implicit: bool = False  # the prompt is the common start of two texts, which is no turn

    @property
    def prompt_text(self) -> str:
        """Text of the prompt's last message, or the full prompt where it is a text."""
        return self.prompt if isinstance(self.prompt, str) else text_of(self.prompt[-1:])

    @property
    def chosen_text(self) -> str:
        """Text of the chosen completion, without chat template."""
        return text_of(self.chosen)

    @property
    def rejected_text(self) -> str:
        """Text of the rejected completion, without chat template."""
        return text_of(self.rejected)


def text_of(value: tuple[Message, ...] | str) -> str:
    """Text unchanged; messages and their tool calls joined by newlines."""
    if isinstance(value, str):
        return value
    if len(value) == 1 and not value[0].extra:
        return value[0].content
    parts = (
        part
        for message in value
        for part in (message.content, *(json.dumps(call, ensure_ascii=False) for call in message.tool_calls))
    )
    return "\n".join(part for part in parts if part)


def text_with_system(prompt: str, system: str) -> str:
    """Prompt of a plain text, after its system text where it has one."""
    return f"{system}{SYSTEM_SEPARATOR}{prompt}" if system.strip() else prompt


class RowRejected(DataError):
    """Rejection of a row: it is dropped and counted under ``reason``, a key of ``filters.REASONS``.

    ``remedy`` replaces that of the reason.
    """

    def __init__(self, reason: str, detail: str = "", remedy: str = "") -> None:
        super().__init__(detail or reason, remedy=remedy or None)
        self.reason = reason
        self.detail = detail
