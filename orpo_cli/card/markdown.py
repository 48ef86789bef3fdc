"""Markdown escaping of names and texts from users, which must not end a code block, start a tag or break a table."""

from __future__ import annotations

import re

_INLINE = re.compile(r"([\\`*\[\]|])")


def escape_text(value: object) -> str:
    """One line of plain text, for a heading, a sentence or a table cell."""
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _INLINE.sub(r"\\\1", text)


def code_span(value: object, *, in_table: bool = False) -> str:
    """Inline code in a fence that is longer than any run of backticks in the value."""
    text = " ".join(str(value).split())
    if in_table:
        text = text.replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    mark, space = "`" * (longest + 1), " " if longest else ""
    return f"{mark}{space}{text}{space}{mark}"


def code_block(text: str, language: str = "") -> str:
    """A code block in a fence that is longer than any fence in the text."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"
