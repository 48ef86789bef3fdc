"""``orpo plan``: every decided value and its reason."""

from __future__ import annotations

from typing import Any

from orpo_cli.cli.options import Json, Overrides, Quiet, RecipeArgument
from orpo_cli.cli.road import planned
from orpo_cli.report.console import Console


def command(recipe: RecipeArgument, overrides: Overrides = None, as_json: Json = False, quiet: Quiet = False) -> None:
    """Show every value a run would obey, and why; downloads no weights.

    [bold]Examples[/bold]

      orpo plan my.yaml
      orpo plan my.yaml --set training.max_steps=20 --json
    """
    console = Console(quiet=quiet, as_json=as_json)
    plan = planned(recipe, overrides or (), console)
    console.result(_table(plan.as_document()))
    console.document(plan.as_document())


def _table(document: dict[str, Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=True, header_style="bold")
    for title in ("value", "", "why"):
        table.add_column(title, overflow="fold")
    for path, entry in _entries(document, ""):
        if entry["origin"] == "default" and entry["value"] in (None, {}, []):
            continue
        style = {"decided": "cyan", "default": "dim"}.get(entry["origin"], "")
        table.add_row(Text(path, style), Text(str(entry["value"]), style), Text(entry["reason"], style))
    return table


def _entries(document: dict[str, Any], prefix: str) -> list[tuple[str, dict[str, Any]]]:
    rows: list[tuple[str, dict[str, Any]]] = []
    for key, entry in document.items():
        if set(entry) == {"value", "origin", "reason"}:
            rows.append((f"{prefix}{key}", entry))
        else:
            rows += _entries(entry, f"{prefix}{key}.")
    return rows
