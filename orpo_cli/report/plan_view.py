"""View of a plan: one row per value, with its reason or with the location where it was set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from orpo_cli.control_characters import one_line
from orpo_cli.planning.plan import is_leaf
from orpo_cli.recipe.schema import Source
from orpo_cli.recipe.source.yaml_writer import inline_yaml

STYLES = {"decided": "bold", "override": "magenta", "environment": "magenta", "recipe": "", "default": "dim"}


def plan_lines(document: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """``(path, value, origin, reason)`` for each value of plan.json, without defaults that are empty.

    In a document with origins, the location replaces the reason, and each value of a source has its own row.
    ``prefix``: the start of each path, in a section.
    """
    for path, entry in plan_leaves(document, prefix):
        if not is_empty_default(entry):
            yield path, format_value(entry["value"]), entry["origin"], reason_of(entry)


def plan_leaves(document: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and entry (``value``, ``origin``, ``reason``, …) of each value of plan.json."""
    for key, entry in document.items():
        path = f"{prefix}{key}"
        if not is_leaf(entry):
            yield from plan_leaves(entry, f"{path}.")
        elif "parts" in entry:
            for index, part in enumerate(entry["parts"]):
                yield from plan_leaves(part, f"{path}[{index}].")
        else:
            yield path, entry


def is_empty_default(entry: dict[str, Any]) -> bool:
    """Whether nobody set a value, and its default is empty."""
    return entry["origin"] == "default" and entry["value"] in (None, {}, [])


def reason_of(entry: dict[str, Any]) -> str:
    """The reason of a value, or in a document with origins its location."""
    return _location(entry) if "file" in entry else str(entry["reason"])


def plan_table(document: dict[str, Any], *, origins: bool = False) -> Table:
    """The rows of ``plan_lines`` as a table for a terminal."""
    columns = (
        Column("value", no_wrap=True),
        Column(overflow="fold"),
        Column("from" if origins else "why", overflow="fold"),
    )
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for path, value, origin, reason in plan_lines(document):
        table.add_row(*(Text(one_line(cell)) for cell in (path, value, reason)), style=STYLES[origin])
    return table


def _location(entry: dict[str, Any]) -> str:
    """``recipe.yaml:14``, with the reason of a decided value or with the environment variables."""
    location = entry["file"] if entry["line"] is None else f"{entry['file']}:{entry['line']}"
    if entry["origin"] == "decided":
        return f"decided: {entry['reason']}" + (f" ({location})" if location else "")
    if entry["origin"] == "default":
        return "default"
    names = ", ".join(entry["variables"])
    return f"{location}, environment variable {names}" if names else location


def format_value(value: Any) -> str:
    """A value as YAML writes it, mappings in one line (flow style); a source without the keys that have their default."""
    if isinstance(value, list) and not any(isinstance(item, dict) for item in value):
        return ", ".join(format_value(item) for item in value)
    if isinstance(value, list | dict):
        only_one = isinstance(value, list) and len(value) == 1
        return inline_yaml(_without_defaults(value[0] if only_one else value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _without_defaults(value: Any) -> Any:
    """A mapping without its empty values and, where it is a source of pairs, without its defaults; also inside a list."""
    if isinstance(value, list):
        return [_without_defaults(item) for item in value]
    if not isinstance(value, dict):
        return value
    fields = Source.model_fields if "path" in value else {}
    unset = {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
    return {
        name: _without_defaults(inner)
        for name, inner in value.items()
        if inner not in (None, {}) and (name not in unset or inner != unset[name])
    }
