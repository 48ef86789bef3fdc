"""Message parsing: messages as datasets store them, and the pair of two conversations."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from orpo_cli.data.pair import REASONING, REASONING_FIELDS, Message, Pair, RowRejected

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
    "function_call": "assistant",
}
KEY_NAMES = (("role", "from"), ("content", "value"))  # a table with both kinds has null under one of them
TOOL_FIELDS = ("name", "tool_call_id")  # further keys of a tool message


def is_messages(value: Any) -> bool:
    """Whether a value looks like a message (role and content, or from and value) or a list of them."""
    messages = [value] if isinstance(value, dict) else value
    return isinstance(messages, list) and all(
        isinstance(item, dict) and ("role" in item or "from" in item) for item in messages
    )


def read_text(value: Any, column: str) -> str:
    """Valid Unicode text. Raises RowRejected for anything else."""
    if not isinstance(value, str):
        raise RowRejected("malformed", f"{column} is {type_name(value)}, not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RowRejected(
            "malformed", f"{column} contains half of a surrogate pair, which is not Unicode text"
        ) from None
    return value


def check_json(value: Any, column: str) -> None:
    """Raise RowRejected where a value contains text that is not Unicode, or is nested too deeply for a template."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise RowRejected("malformed", f"{column} is nested too deeply") from None
    read_text(text, column)


def read_messages(value: Any, column: str, default_role: str) -> tuple[Message, ...]:
    """Messages of a message, a list of them, or a text with ``default_role``. Raises RowRejected."""
    if isinstance(value, str):
        return (Message(default_role, read_text(value, column)),)
    items = [value] if isinstance(value, dict) else value
    if not isinstance(items, list):
        raise RowRejected("malformed", f"{column} is {type_name(value)}, not messages")
    return tuple(_message(item, f"{column}[{index}]") for index, item in enumerate(items))


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, dict):
        raise RowRejected("malformed", f"{where} is {type_name(item)}, not a message")
    role, content = (item[name] if item.get(name) is not None else item.get(other) for name, other in KEY_NAMES)
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise RowRejected("malformed", f"{where} has the role {role!r}; known: {', '.join(ROLES)}")
    extra: dict[str, Any] = {}
    if role.lower() == "function_call":  # ShareGPT: the content is the call
        call = {"tool_calls": _tool_calls([_parse_json(content, where)], where)}
        check_json(call, where)
        return Message("assistant", "", call)
    if item.get("tool_calls"):
        content, extra = content or "", {"tool_calls": _tool_calls(item["tool_calls"], where)}
    elif ROLES[role.lower()] == "tool":
        extra = {name: item[name] for name in TOOL_FIELDS if item.get(name) is not None}
    reasoning = [item[name] for name in REASONING_FIELDS if isinstance(item.get(name), str)]
    if isinstance(content, list):  # content parts of the OpenAI API
        reasoning += [text for part in content if (text := _reasoning_part(part)) is not None]
        content = "".join(_text_part(part, where) for part in content if _reasoning_part(part) is None)
    if ROLES[role.lower()] == "assistant" and any(map(str.strip, reasoning)):
        extra[REASONING] = next(filter(str.strip, reasoning))
    if extra:
        check_json(extra, where)
    return Message(ROLES[role.lower()], read_text(content, f"the content of {where}"), extra or None)


def _tool_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    """Tool calls as templates expect them: a function with its name, and its arguments as an object."""
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise RowRejected("malformed", f"the tool_calls of {where} are {type_name(calls)}, not a list of objects")
    found = []
    for call in calls:
        function = call.get("function", call)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RowRejected("malformed", f"{where} calls a tool without a name")
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            arguments = _parse_json(arguments or "{}", where)
        function = {"name": function["name"], "arguments": arguments}
        found.append({**({"id": call["id"]} if call.get("id") else {}), "type": "function", "function": function})
    return found


def _parse_json(text: Any, where: str) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise RowRejected("malformed", f"{where} calls a tool with what is not JSON: {error}") from error


def _reasoning_part(part: Any) -> str | None:
    """Text of a content part with reasoning, as Anthropic and Mistral write it; None for another part."""
    if not isinstance(part, dict) or part.get("type") not in ("thinking", "reasoning"):
        return None
    value = part.get("thinking", part.get("reasoning", part.get("text")))
    texts = value if isinstance(value, list) else [value]
    return "".join(str(each.get("text") or "") if isinstance(each, dict) else str(each or "") for each in texts)


def _text_part(part: Any, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise RowRejected("malformed", f"{where} has a part that is not text")
    return read_text(part.get("text"), where)


def conversation_pair(
    prompt: tuple[Message, ...], chosen: tuple[Message, ...], rejected: tuple[Message, ...], notes: Counter[str]
) -> Pair:
    """Pair of the last messages of two conversations.

    Completions that start with the end of ``prompt`` repeat it; the repetition is removed. Where the conversations before the
    last message differ, the pair has the rejected one as ``rejected_prompt``. Raises RowRejected where the last message is not
    by the assistant.
    """
    full_chosen, repeated_by_chosen = _join_prompt(prompt, chosen)
    full_rejected, repeated_by_rejected = _join_prompt(prompt, rejected)
    if not chosen or not rejected:
        raise RowRejected("empty_rejected" if chosen else "empty_chosen", "no message")
    for column, conversation in (("chosen", full_chosen), ("rejected", full_rejected)):
        if conversation[-1].role != "assistant":
            raise RowRejected(
                "malformed", f"{column} ends with a {conversation[-1].role} message, not an assistant message"
            )
    history, rejected_history = full_chosen[:-1], full_rejected[:-1]
    if history != rejected_history:
        return Pair(history, full_chosen[-1:], full_rejected[-1:], rejected_prompt=rejected_history)
    if history and history[-1].role not in ("user", "tool"):
        raise RowRejected(
            "malformed", f"the prompt ends with a {history[-1].role} message, not with a user or tool message"
        )
    if repeated_by_chosen or repeated_by_rejected:
        notes["prompt_stored_twice"] += 1
    return Pair(history, full_chosen[-1:], full_rejected[-1:])


def _join_prompt(prompt: tuple[Message, ...], completion: tuple[Message, ...]) -> tuple[tuple[Message, ...], bool]:
    """Full conversation, and whether ``completion`` started with the last messages of ``prompt``."""
    for length in range(min(len(prompt), len(completion) - 1), 0, -1):
        if prompt[-length:] == completion[:length]:
            return prompt + completion[length:], True
    return prompt + completion, False


def type_name(value: Any) -> str:
    """Type of a value, named for an error message."""
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
