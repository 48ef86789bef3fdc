"""Roles of messages: the names that datasets use, and the four roles of chat templates."""

from __future__ import annotations

ROLES = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "tool": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    "function": "tool",
    "function_response": "tool",
    "ipython": "tool",
    "function_call": "assistant",
    "tool_call": "assistant",
}
TOOL_CALL_ROLES = ("function_call", "tool_call")  # of an assistant; the content is the call
JOINED_ROLES = ("tool_call",)  # ms-swift: one turn together with the assistant messages directly before it


def normalize_role(role: object) -> str:
    """Name of a role as ``ROLES`` has it; the empty text for a value that is no text."""
    return role.strip().lower() if isinstance(role, str) else ""
