"""Message parsing: messages as datasets store them, and the pair of two conversations."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from orpo_cli.data.json_text import parse_json_text
from orpo_cli.data.media import MEDIA_PARTS, not_text
from orpo_cli.data.pair import REASONING, REASONING_FIELDS, Message, Pair, RowRejected
from orpo_cli.data.roles import JOINED_ROLES, ROLES, TOOL_CALL_ROLES, normalize_role

KEY_NAMES = (  # a table with several kinds has null under the others
    ("role", "from"),
    ("content", "value", "text", "parts"),
)
TOOL_FIELDS = ("name", "tool_call_id")  # further keys of a tool message
TEXT_PARTS = (None, "text", "input_text", "output_text")  # types of content parts; those of Gemini have none
ARGUMENTS = ("arguments", "parameters", "args")  # keys of a tool call
MAX_DEPTH = 100  # lists and objects in each other; what more does depends on the version of Python
TEXT_REMEDY = "Give texts or messages, or map other columns with `columns:`."
UNICODE_REMEDY = "Write the data as UTF-8 again, without the half of a character."
MESSAGE_REMEDY = "Give each message as an object with role and content."
PART_REMEDY = 'Give each part of a content as {"type": "text", "text": …}.'
JSON_REMEDY = "Store dates and other such values as text."
CALL_REMEDY = "Give a tool call as an object with a name and arguments, or as its JSON text."


def is_messages(value: Any) -> bool:
    """Whether a value looks like a message (role and content, or from and value) or a list of them."""
    messages = [value] if isinstance(value, dict) else value
    return isinstance(messages, list) and all(
        isinstance(item, dict) and ("role" in item or "from" in item) for item in messages
    )


def read_text(value: Any, column: str) -> str:
    """Valid Unicode text. Raises RowRejected for anything else."""
    if not isinstance(value, str):
        raise RowRejected("malformed", f"{column} is {type_name(value)}, not text", TEXT_REMEDY)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RowRejected(
            "malformed", f"{column} contains half of a surrogate pair, which is not Unicode text", UNICODE_REMEDY
        ) from None
    return value


def check_json(value: Any, column: str) -> None:
    """Raise RowRejected where a value has what JSON does not, text that is not Unicode, or is nested too deeply for a template."""
    read_text(_json_text(value, column), column)


def _json_text(value: Any, column: str) -> str:
    if _is_deeper(value, MAX_DEPTH):
        raise RowRejected("malformed", f"{column} is nested too deeply", "Remove the nested value from the row.")
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError as error:  # Parquet has dates, and other values that JSON does not have
        raise RowRejected("malformed", f"{column} cannot be written as JSON: {error}", JSON_REMEDY) from None


def _is_deeper(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True


def read_messages(value: Any, column: str, default_role: str) -> tuple[Message, ...]:
    """Messages of a message, a list of them, or a text with ``default_role``. Raises RowRejected."""
    if isinstance(value, str):
        return (Message(default_role, read_text(value, column)),)
    items = [value] if isinstance(value, dict) else value
    if not isinstance(items, list):
        raise RowRejected("malformed", f"{column} is {type_name(value)}, not messages", TEXT_REMEDY)
    found: list[Message] = []
    for index, item in enumerate(items):
        role, message = _message(item, f"{column}[{index}]")
        if role in JOINED_ROLES and found and found[-1].role == "assistant":
            before = found.pop()
            calls = [*before.tool_calls, *message.tool_calls]
            message = Message(
                "assistant", before.content, {**(message.extra or {}), **(before.extra or {}), "tool_calls": calls}
            )
        found.append(message)
    return tuple(found)


def _message(item: Any, where: str) -> tuple[str, Message]:
    """Role as the data names it, and the message."""
    if not isinstance(item, dict):
        raise RowRejected("malformed", f"{where} is {type_name(item)}, not a message", MESSAGE_REMEDY)
    if len(item) == 2 and isinstance(content := item.get("content"), str) and "role" in item:
        role = normalize_role(item["role"])
        if role in ROLES and ROLES[role] != "tool" and role not in TOOL_CALL_ROLES:  # nearly every message
            return role, Message(ROLES[role], read_text(content, f"the content of {where}"))
    name, content = (next((item[key] for key in keys if item.get(key) is not None), None) for keys in KEY_NAMES)
    role = normalize_role(name)
    if role not in ROLES:
        raise RowRejected(
            "malformed",
            f"{where} has the role {name!r}",
            f"Rename the role in the data. Known roles: {', '.join(ROLES)}.",
        )
    extra: dict[str, Any] = {}
    calls = item.get("tool_calls") or _function_call(item)
    is_call = role in TOOL_CALL_ROLES and not calls
    if is_call:
        content, calls = "", content
    if calls or is_call:
        content, extra = content or "", {"tool_calls": _tool_calls(calls, where)}
    elif ROLES[role] == "tool":
        extra = {key: item[key] for key in TOOL_FIELDS if item.get(key) is not None}
        content = _tool_result(content, where)
    reasoning = [_reasoning_text(item.get(name)) for name in REASONING_FIELDS]
    if isinstance(content, list):  # content parts of the OpenAI API
        reasoning.append("\n\n".join(text for part in content if (text := _reasoning_part(part))))
        content = "".join(_text_part(part, where) for part in content if _reasoning_part(part) is None)
    if ROLES[role] == "assistant" and any(map(str.strip, reasoning)):
        extra[REASONING] = next(filter(str.strip, reasoning))
    if extra:
        check_json(extra, where)
    return role, Message(ROLES[role], read_text(content, f"the content of {where}"), extra or None)


def _function_call(item: dict[str, Any]) -> dict[str, Any] | None:
    """The one call of a message in older data of OpenAI; None where a table has nulls in its place."""
    call = item.get("function_call")
    return call if isinstance(call, dict) and call.get("name") is not None else None


def _tool_result(content: Any, where: str) -> Any:
    """Result of a tool as a text: objects and lists of data as JSON; content parts unchanged."""
    is_parts = isinstance(content, list) and all(isinstance(part, dict) and "type" in part for part in content)
    is_data = isinstance(content, dict | list | int | float) and not is_parts
    return _json_text(content, where) if is_data else content


def _tool_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    """Tool calls as templates expect them: a function with its name, and its arguments as an object."""
    if isinstance(calls, str) and calls.lstrip()[:1] in ("[", "{"):
        calls = _parse_json(calls, where)
    calls = [calls] if isinstance(calls, dict) else calls
    if not isinstance(calls, list) or not calls or not all(isinstance(call, dict) for call in calls):
        raise RowRejected(
            "malformed", f"the tool_calls of {where} are {type_name(calls)}, not a list of objects", CALL_REMEDY
        )
    found = []
    for call in calls:
        function = call.get("function", call)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RowRejected("malformed", f"{where} calls a tool without a name", CALL_REMEDY)
        arguments: Any = next((function[key] for key in ARGUMENTS if function.get(key) is not None), {})
        if isinstance(arguments, str):
            arguments = _parse_json(arguments or "{}", where)
        function = {"name": function["name"], "arguments": arguments}
        found.append({**({"id": call["id"]} if call.get("id") else {}), "type": "function", "function": function})
    return found


def _parse_json(text: str, where: str) -> Any:
    try:
        return parse_json_text(text)
    except ValueError as error:
        raise RowRejected("malformed", f"{where} calls a tool with what is not JSON: {error}", CALL_REMEDY) from error


def _reasoning_text(value: Any) -> str:
    """Reasoning that is a text or a list of texts; nothing for another value, such as the settings of a request."""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "\n\n".join(value)
    return value if isinstance(value, str) else ""


def _reasoning_part(part: Any) -> str | None:
    """Text of a content part with reasoning, as Anthropic and Mistral write it; None for another part."""
    if not isinstance(part, dict) or part.get("type") not in ("thinking", "reasoning"):
        return None
    value = part.get("thinking", part.get("reasoning", part.get("text")))
    texts = value if isinstance(value, list) else [value]
    return "".join(str(each.get("text") or "") if isinstance(each, dict) else str(each or "") for each in texts)


def _text_part(part: Any, where: str) -> str:
    if not isinstance(part, dict):
        raise RowRejected(
            "malformed", f"{where} has a part that is {type_name(part)}, not an object with a text", PART_REMEDY
        )
    if part.get("type") in MEDIA_PARTS:
        raise not_text(where)
    if part.get("type") not in TEXT_PARTS:
        raise RowRejected("malformed", f"{where} has a part of the type {part.get('type')!r}, not text", PART_REMEDY)
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
                "malformed",
                f"{column} ends with a {conversation[-1].role} message, not an assistant message",
                "End both conversations with the message of the assistant to compare.",
            )
    history, rejected_history = full_chosen[:-1], full_rejected[:-1]
    if history != rejected_history:
        return Pair(history, full_chosen[-1:], full_rejected[-1:], rejected_prompt=rejected_history)
    if history and history[-1].role not in ("user", "tool"):
        raise RowRejected(
            "malformed",
            f"the prompt ends with a {history[-1].role} message, not with a user or tool message",
            "End the prompt with the message that the assistant answers.",
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
