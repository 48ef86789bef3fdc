"""rich's console without control characters and secrets in what it prints; imported only for layout and colours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.segment import Segment

from orpo_cli.control_characters import escape_controls
from orpo_cli.redaction import redact_record


class SafeConsole(Console):
    """Console that prints every text escaped and masked. rich itself removes some control characters and passes on the others."""

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of ``renderable``; those that move the cursor for rich's own displays stay."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else escape_controls(redact_record(segment.text))
            yield segment if text == segment.text else Segment(text, segment.style)
