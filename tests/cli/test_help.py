"""Help pages at 80 columns: whole examples, whole names of options, no type for flags."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import typer

from orpo_cli.cli.commands import COMMANDS, build_app

NAMES = [(name.replace("_", "-"),) for name in COMMANDS] + [("recipes", "show")]


@pytest.fixture(scope="module")
def commands() -> dict[str, Any]:
    group = typer.main.get_command(build_app())
    return dict(group.commands)


@pytest.mark.parametrize("words", NAMES, ids="-".join)
def test_a_help_page_fits_80_columns(words: tuple[str, ...], orpo_here: Callable[..., Any], commands: Any) -> None:
    page = orpo_here(*words, "--help").stdout
    lines = page.splitlines()
    assert max(map(len, lines)) <= 80
    assert "<bool>" not in page
    assert "…" not in page
    command = commands[words[0]]
    for word in words[1:]:
        command = command.commands[word]
    examples = re.findall(r"^ +(orpo .*)$", command.help, re.MULTILINE)
    assert examples or words == ("recipes",)
    shown = {line.rstrip() for line in lines}
    assert [each for each in examples if f"   {each.rstrip()}" not in shown] == []  # indented
