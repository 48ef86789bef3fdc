"""A plan for people: one line a value, with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

STYLES = {"decided": "cyan", "override": "magenta", "environment": "magenta", "recipe": "", "default": "dim"}


def plan_lines(document: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """``(path, value, origin, reason)`` for each leaf of plan.json that says something; unset defaults are left out."""
    yield from _lines(document, "")


def plan_table(document: dict[str, Any]) -> Table:
    """The same as a table for a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("value", no_wrap=True)
    table.add_column("", overflow="fold")
    table.add_column("why", overflow="fold")
    for path, value, origin, reason in plan_lines(document):
        table.add_row(*(Text(cell, STYLES[origin]) for cell in (path, value, reason)))
    return table


def _lines(document: dict[str, Any], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for key, entry in document.items():
        if set(entry) != {"value", "origin", "reason"}:
            yield from _lines(entry, f"{prefix}{key}.")
        elif entry["origin"] != "default" or entry["value"] not in (None, {}, []):
            yield f"{prefix}{key}", _shown(entry["value"]), entry["origin"], entry["reason"]


def _shown(value: Any) -> str:
    """Sources without their unset keys; the rest as YAML writes it."""
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value)
    if isinstance(value, dict):
        given = {name: inner for name, inner in value.items() if inner not in (None, {}, "auto", 1.0)}
        return " ".join(f"{name}={_shown(inner)}" for name, inner in given.items())
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
