"""Nulls that Arrow adds: a struct column has every field in every row, so a tool gets ``null`` for the parameters of the others.

They are removed from tools and tool calls, so that a row gives the same tokens from Parquet as from JSON Lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

TOOL_KEYS = ("tools", "functions", "tool_calls", "function_call")


def null_remover(schema: Any | None, columns: Mapping[str, str]) -> Callable[[Any], Any]:
    """Function that removes the added nulls from a row of ``schema`` (Arrow's; None: unknown, so every column is searched).

    ``columns``: the recipe's mapping, which can give the column of the tools another name.
    """
    keys = {*TOOL_KEYS, columns.get("tools", "tools").rpartition(".")[2]}
    affected = None if schema is None else {field.name for field in schema if _has_tools(field, keys)}

    def remove(row: Any) -> Any:
        if not isinstance(row, dict) or affected == set():
            return row
        return {
            name: value if affected is not None and name not in affected else _clean(value, keys, name in keys)
            for name, value in row.items()
        }

    return remove


def _has_tools(field: Any, keys: set[str], inside: bool = False) -> bool:
    """Whether an Arrow field has a struct within tools or tool calls."""
    inside = inside or field.name in keys
    children = [field.type.field(index) for index in range(field.type.num_fields)]
    if inside and str(field.type).startswith("struct<"):
        return True
    return any(_has_tools(child, keys, inside) for child in children)


def _clean(value: Any, keys: set[str], inside: bool) -> Any:
    """``value`` without the null fields of objects within tools and tool calls."""
    if isinstance(value, list):
        return [_clean(item, keys, inside) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _clean(item, keys, inside or key in keys) for key, item in value.items() if not (inside and item is None)
    }
