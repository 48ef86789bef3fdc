"""Comparison page: its table counts what its sections show."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "comparison.md"
SHELL = ("sh", "text")  # text: typed into a program that a command has started
DASH = "—"


def count(section: str, tool: str) -> str:
    """`commands / words` of one tool in the section of a task; a dash where the section has a sentence only."""
    shown = re.search(rf"^{tool}:\n\n((?:```.*?^```\n*)+)", section, re.MULTILINE | re.DOTALL)
    if shown is None:
        assert re.search(rf"^{tool}: \S.*\.$", section, re.MULTILINE), f"{tool} in {section[:40]}"
        return DASH
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", shown[1], re.MULTILINE | re.DOTALL)
    commands = sum(len(text.splitlines()) for kind, text in blocks if kind in SHELL)
    return f"{commands} / {sum(len(text.split()) for _, text in blocks)}"


def test_the_table_counts_the_commands_and_words_of_each_section() -> None:
    page = PAGE.read_text(encoding="utf-8")
    header, _, *rows = (line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("|"))
    sections = {re.match(r"(.*)\n", text)[1]: text for text in page.split("\n## ")[1:]}  # type: ignore[index]
    assert len(rows) == len(sections) == 12
    for task, *cells in rows:
        number, title = re.fullmatch(r"(\d+)\. \[(.*)\]\(#.*\)", task).groups()  # type: ignore[union-attr]
        section = sections[f"{number}. {title}"]
        assert cells == [count(section, tool) for tool in header[1:]], task
