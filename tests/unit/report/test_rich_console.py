"""rich's console masks a secret that rich would wrap or that has several styles."""

from __future__ import annotations

import io

import pytest
from rich.table import Table
from rich.text import Text

from orpo_cli.report.rich_console import SafeConsole

SECRET = "Swordfish-0123456789-abcdefghijkl"


@pytest.mark.parametrize("cell", [SECRET, Text(SECRET), Text.assemble("a ", (SECRET[:9], "red"), (SECRET[9:], "blue"))])
@pytest.mark.parametrize("in_table", [False, True])
def test_no_part_of_a_secret_is_printed(monkeypatch: pytest.MonkeyPatch, cell: str | Text, in_table: bool) -> None:
    monkeypatch.setenv("A_TOKEN", SECRET)
    table = Table("name", "value")
    table.add_row("x", cell)
    console = SafeConsole(file=io.StringIO(), width=24, force_terminal=True, color_system="truecolor")
    console.print(table if in_table else cell)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "A_TOKEN" in printed
    assert not [part for part in (SECRET[:6], SECRET[9:15], SECRET[-6:]) if part in printed]


def test_the_styles_around_a_secret_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", SECRET)
    console = SafeConsole(file=io.StringIO(), width=80, force_terminal=True, color_system="truecolor")
    console.print(Text.assemble(("before ", "red"), SECRET, (" after", "blue")), soft_wrap=True)
    assert console.file.getvalue() == "\x1b[31mbefore \x1b[0m${A_TOKEN}\x1b[34m after\x1b[0m\n"  # type: ignore[attr-defined]
