"""Types, bounds and defaults of a recipe's keys as texts, for `orpo explain KEY` and the reference pages."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orpo_cli.recipe.schema import EvalSplit, PairRules, Source

BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Section model of a top-level key, or None for a plain value."""
    for member in (annotation, *typing.get_args(annotation)):
        if isinstance(member, type) and issubclass(member, BaseModel):
            return member
    return None


def type_of(field: FieldInfo) -> str:
    """Type and bounds of a field, as a recipe author reads them."""
    bounds = [
        f"{sign} {getattr(rule, name)}"
        for rule in field.metadata
        for name, sign in BOUNDS.items()
        if hasattr(rule, name)
    ]
    return " · ".join((alternatives(field.annotation), *bounds))


def alternatives(annotation: Any) -> str:
    """Alternatives of a type as one phrase: `a`, `b` or `c`."""
    *all_but_last, last = dict.fromkeys(type_names(annotation))
    return f"{', '.join(all_but_last)} or {last}" if all_but_last else last


def literals(annotation: Any) -> list[Any]:
    """All values of a type that allows a fixed set of them and, in a recipe, null; empty for other types."""
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return list(members)
    if origin not in (Union, types.UnionType):
        return []
    parts = [literals(each) for each in members if each is not type(None)]
    return [value for part in parts for value in part] if all(parts) else []


def type_names(annotation: Any) -> Iterator[str]:
    """Names of the alternatives of a type."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        for each in arguments:
            if each is not type(None):
                yield from type_names(each)
    elif origin is Annotated:
        yield from type_names(arguments[0])
    elif origin is Literal:
        yield from (f"`{as_yaml(value)}`" for value in arguments)
    elif origin is list:
        yield f"list of {alternatives(arguments[0])}"
    elif origin is dict or annotation is dict:
        yield "mapping"
    elif annotation is Source:
        yield "source"
    elif annotation is PairRules:
        yield "`{rule: true/false}`"
    elif annotation is EvalSplit:
        yield "`{test_size: …}`"
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "mapping, see below"
    else:
        yield {str: "text", int: "integer", float: "number", bool: "true/false"}[annotation]


def default_of(field: FieldInfo) -> str:
    """Default of a field, written as YAML."""
    return "required" if field.is_required() else f"`{as_yaml(field.get_default())}`"


def as_yaml(value: Any) -> str:
    """A value written as YAML."""
    if isinstance(value, str):
        return value if yaml.safe_load(value) == value else json.dumps(value)
    if isinstance(value, list):
        return f"[{', '.join(map(as_yaml, value))}]"
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, BaseModel):
        return "see below"
    return "{}" if value == {} else str(value)
