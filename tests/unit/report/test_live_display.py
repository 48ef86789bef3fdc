"""Live display: what is printed above the table has no secrets, and a refresh of the numbers searches for none."""

from __future__ import annotations

import io

import pytest

from orpo_cli import secret_values
from orpo_cli.report.console import Console
from orpo_cli.report.live_display import COLUMNS, TrainingDisplay
from orpo_cli.report.progress import show_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def use_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error of this test, not of a fixture: pytest sets it again for each phase of a test."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("A_TOKEN", "Swordfish1")
    return terminal


def searches() -> int:
    info = secret_values._known_masks.cache_info()
    return info.hits + info.misses


def test_a_refresh_of_the_table_does_not_search_for_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    with TrainingDisplay(Console()) as display:
        assert display.live is not None
        display.progress(1, 10)
        display.show_metrics({"step": 1, **{name: 0.25 for name, _, _ in COLUMNS}})
        before = searches()
        display.live.refresh()
        assert searches() == before
        display.note("a note with Swordfish1\x1b[2J")
    assert "0.2500" in terminal.getvalue()
    assert "a note with ${A_TOKEN}\\x1b[2J" in terminal.getvalue()
    assert "Swordfish1" not in terminal.getvalue()


def test_the_title_of_a_progress_bar_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    with show_progress(Console()) as start:
        start("reading [Swordfish1]\x1b[2J")(1, 2)
    assert "reading [${A_TOKEN}]\\x1b[2J" in terminal.getvalue()
