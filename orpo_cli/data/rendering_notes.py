"""Comparison of messages with their rendered text: what of an answer, of its reasoning and of the prompt the template writes.

A template may leave text out: the reasoning of an answer (the template of DeepSeek-R1), a role that it has no place for, tools. Such
text is not trained, so it is counted as a note of the data report. Text is compared without white space, which templates trim.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orpo_cli.data.pair import REASONING

THINKING_TAG = re.compile(r"</?think>")
EMPTY_THINKING = re.compile(r"\s*(<think>)?\s*</think>")  # at the start of a completion; the prompt may open the block
SWITCH = re.compile(r"/(?:no_)?think\b")  # in a system text: SmolLM3's template reads it and leaves it out
COMPARED_ROLES = ("system", "user")  # a template may encode the text of a tool message


def rendering_notes(
    history: Sequence[Mapping[str, Any]],
    answers: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    prompt: str,
    completions: Sequence[str],
) -> tuple[str, ...]:
    """Names of ``report.NOTES`` that hold for a pair: messages, and their text as the template writes it."""
    found = set[str]()
    for answer, completion in zip(answers, completions, strict=True):
        found.update(_answer_notes(answer, completion))
    texts = [message["content"] for message in history if message["role"] in COMPARED_ROLES]
    if not all(_contains(prompt, text) or _contains(prompt, SWITCH.sub("", text)) for text in texts):
        found.add("message_not_rendered")
    if any(not _contains(prompt, text) for message in history for text in _reasoning_texts(message)):
        found.add("earlier_reasoning_removed")
    if tools and not all(str(tool.get("function", tool).get("name", "")) in prompt for tool in tools):
        found.add("tools_not_rendered")
    return tuple(sorted(found))


def _answer_notes(answer: Mapping[str, Any], completion: str) -> Iterator[str]:
    reasoning = _reasoning_texts(answer)
    if reasoning:
        is_rendered = all(_contains(completion, text) for text in reasoning)
        yield "reasoning_trained" if is_rendered else "reasoning_removed"
    elif EMPTY_THINKING.match(completion) and not EMPTY_THINKING.match(answer["content"]):
        yield "empty_thinking_trained"
    if not all(_contains(completion, text) for text, is_reasoning in _parts(answer["content"]) if not is_reasoning):
        yield "answer_text_removed"


def _reasoning_texts(message: Mapping[str, Any]) -> list[str]:
    """Reasoning of a message: of its own field, and the text of its content up to ``</think>``."""
    if message["role"] != "assistant":
        return []
    own = message.get(REASONING) or ""
    return [text for text, is_reasoning in ((own, True), *_parts(message["content"])) if is_reasoning and text.strip()]


def _parts(content: str) -> list[tuple[str, bool]]:
    """Text between the thinking tags, each with whether it is reasoning: the text before a closing tag."""
    if "</think>" not in content:
        return [(content, False)]
    ends = [tag.group() == "</think>" for tag in THINKING_TAG.finditer(content)]
    return list(zip(THINKING_TAG.split(content), [*ends, False], strict=True))


def _contains(rendered: str, text: str) -> bool:
    return text.strip() in rendered or "".join(text.split()) in "".join(rendered.split())
