"""Messages as data sets store them, and two of their conversations as a pair."""

from __future__ import annotations

from collections import Counter
from typing import Any

from orpo_cli.data.pair import Message, Misfit, Pair

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
}


def is_messages(value: Any) -> bool:
    """Whether a value looks like a message (role and content, or from and value) or a list of them."""
    messages = [value] if isinstance(value, dict) else value
    return isinstance(messages, list) and all(
        isinstance(item, dict) and ("role" in item or "from" in item) for item in messages
    )


def read_text(value: Any, column: str) -> str:
    """A text that can be tokenized. Raises Misfit for anything else."""
    if not isinstance(value, str):
        raise Misfit("malformed", f"{column} is {kind(value)}, not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise Misfit("malformed", f"{column} holds half of a surrogate pair, which is not Unicode text") from None
    return value


def read_messages(value: Any, column: str, role_of_text: str) -> tuple[Message, ...]:
    """A message, a list of them, or a text, which becomes one message of ``role_of_text``. Raises Misfit."""
    if isinstance(value, str):
        return (Message(role_of_text, read_text(value, column)),)
    items = [value] if isinstance(value, dict) else value
    if not isinstance(items, list):
        raise Misfit("malformed", f"{column} is {kind(value)}, not messages")
    return tuple(_message(item, f"{column}[{index}]") for index, item in enumerate(items))


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, dict):
        raise Misfit("malformed", f"{where} is {kind(item)}, not a message")
    role = item.get("role", item.get("from"))
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise Misfit("malformed", f"{where} has the role {role!r}; known: {', '.join(ROLES)}")
    if item.get("tool_calls"):
        raise Misfit("malformed", f"{where} calls a tool, which is not supported")
    content = item.get("content", item.get("value"))
    if isinstance(content, list):  # parts, as the OpenAI interface writes them
        content = "".join(_part(part, where) for part in content)
    return Message(ROLES[role.lower()], read_text(content, f"the content of {where}"))


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise Misfit("malformed", f"{where} has a part that is not text")
    return read_text(part.get("text"), where)


def conversation(
    prompt: tuple[Message, ...], chosen: tuple[Message, ...], rejected: tuple[Message, ...], notes: Counter[str]
) -> Pair:
    """The pair of two conversations that differ in their last message only.

    Answers that begin with the end of ``prompt`` repeat it, and are stripped of it. Raises Misfit where the conversations
    before the last message differ, or where the last message is not an answer.
    """
    whole_chosen, repeated_by_chosen = _joined(prompt, chosen)
    whole_rejected, repeated_by_rejected = _joined(prompt, rejected)
    if not chosen or not rejected:
        raise Misfit("empty_rejected" if chosen else "empty_chosen", "no message")
    for column, whole in (("chosen", whole_chosen), ("rejected", whole_rejected)):
        if whole[-1].role != "assistant":
            raise Misfit("malformed", f"{column} ends with a {whole[-1].role} message, not with an answer")
    history = whole_chosen[:-1]
    if history != whole_rejected[:-1]:
        raise Misfit("histories_differ")
    if history and history[-1].role not in ("user", "tool"):
        raise Misfit("malformed", f"the prompt ends with a {history[-1].role} message, so there is nothing to answer")
    if repeated_by_chosen or repeated_by_rejected:
        notes["prompt_stored_twice"] += 1
    return Pair(history, whole_chosen[-1:], whole_rejected[-1:])


def _joined(prompt: tuple[Message, ...], answer: tuple[Message, ...]) -> tuple[tuple[Message, ...], bool]:
    """The whole conversation, and whether ``answer`` began with messages that end ``prompt``."""
    for length in range(min(len(prompt), len(answer) - 1), 0, -1):
        if prompt[-length:] == answer[:length]:
            return prompt + answer[length:], True
    return prompt + answer, False


def kind(value: Any) -> str:
    """What a value is, in words."""
    names = {
        type(None): "missing",
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)
