"""rich's console without control characters and secrets in what it prints; imported only for layout and colours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.text import Text

from orpo_cli.control_characters import escape_controls
from orpo_cli.redaction import find_change, redact_record


class SafeConsole(Console):
    """Console that prints every text escaped and masked. rich itself removes some control characters and passes on the others."""

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of ``renderable``; those that move the cursor for rich's own displays stay."""
        if isinstance(renderable, Text):
            renderable = _safe_text(renderable)
        elif isinstance(renderable, str):
            renderable = _safe(renderable)
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else _safe(segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)


def _safe(text: str) -> str:
    return escape_controls(redact_record(text))


def _safe_text(text: Text) -> Text:
    """The text masked as one, before rich wraps it: a secret may be on several lines and in several styles."""
    if (cleaned := _safe(text.plain)) == text.plain:
        return text
    start, end, replacement = find_change(text.plain, cleaned)
    before, _, after = text.divide([start, end])
    masked = before.append(replacement).append_text(after)
    masked.end, masked.no_wrap = text.end, text.no_wrap
    return masked
