"""Markdown escaping of names and texts from users, which must not end a code block, start a tag or break a table."""

from __future__ import annotations

import re
from pathlib import PurePath

from orpo_cli.control_characters import escape_controls
from orpo_cli.memory_dataset import source_label
from orpo_cli.model.model_source import PACKAGE_PREFIX

_INLINE = re.compile(r"([\\`*\[\]|])")


def public_path(path: object) -> str:
    """A path or an id for readers elsewhere: of a path on this machine the name of the file, of a dataset in memory its label."""
    text = source_label(str(path or ""))
    is_local = PurePath(text).is_absolute() or text.startswith(("~", "file:"))
    return PurePath(text).name if is_local else text


def escape_text(value: object) -> str:
    """One line of plain text, for a heading, a sentence or a table cell."""
    text = _one_line(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _INLINE.sub(r"\\\1", text)


def code_span(value: object, *, in_table: bool = False) -> str:
    """Inline code in a fence that is longer than any run of backticks in the value."""
    text = _one_line(value)
    if in_table:
        text = text.replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    mark, space = "`" * (longest + 1), " " if longest else ""
    return f"{mark}{space}{text}{space}{mark}"


def base_text(model: str) -> str:
    """The base model: its id, the name of its file or folder, and the Python package that has it."""
    if not model.startswith(PACKAGE_PREFIX):
        return code_span(public_path(model))
    package, _, file = model.removeprefix(PACKAGE_PREFIX).partition("/")
    return f"{code_span(PurePath(file).name)} of the Python package {code_span(package.replace('_', '-'))}"


def code_block(text: str, language: str = "") -> str:
    """A code block in a fence that is longer than any fence in the text."""
    text, fence = escape_controls(text), "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"


def _one_line(value: object) -> str:
    """The text without line breaks, and with escapes for control characters, which also reverse the direction of text."""
    return escape_controls(" ".join(str(value).split()))
