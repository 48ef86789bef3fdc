"""Markdown tables of settings: key, type, bounds, default and meaning, as written in a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orpo_cli.recipe.field_types import default_of, type_of


def table(fields: Any) -> str:
    """Table of the key, type, default and meaning of a section's fields."""
    rows = [
        (f"`{name}`", cell(type_of(field)), default_of(field), cell(field.description or "")) for name, field in fields
    ]
    return markdown_table(("key", "type", "default", "meaning"), rows)


def cell(text: str) -> str:
    """``text`` escaped for a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def markdown_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Markdown table with a header row and rows of the same length."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
