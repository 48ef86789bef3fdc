"""Validation errors of pydantic as problems of a recipe: one per value, with its path, the rule and a remedy."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from orpo_cli.errors import Problem
from orpo_cli.recipe.did_you_mean import closest_name, did_you_mean_key, known_keys
from orpo_cli.recipe.legacy.argument_policy import ArgumentPolicy
from orpo_cli.recipe.legacy.fsdp_config import RENAMED, WITHOUT_COUNTERPART
from orpo_cli.recipe.legacy.unsupported_launch_args import UNSUPPORTED_LAUNCH_ARGS
from orpo_cli.recipe.legacy.unsupported_peft_args import UNSUPPORTED_LORA_INITS, UNSUPPORTED_PEFT_ARGS
from orpo_cli.recipe.schema import FsdpConfig, Source
from orpo_cli.recipe.source.nodes import Path, format_path
from orpo_cli.recipe.source.source_map import SourceMap
from orpo_cli.recipe.source.yaml_characters import missing_space
from orpo_cli.recipe.source.yaml_reader import SCALAR_KINDS
from orpo_cli.secret_patterns import secret_kind

MAX_SUGGESTIONS = 300  # a file with more unknown keys is not a recipe, and suggestions for all would take seconds

TYPE_NAMES = {
    "string_type": "text",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "list_type": "a list",
    "model_type": "a mapping of keys",
    "none_required": "null",
}
BOOLEANS = {
    **dict.fromkeys(("yes", "on", "y"), "true"),
    **dict.fromkeys(("no", "off", "n"), "false"),
}
DASHES = {ord(dash): "-" for dash in "‐‑‒–—−"}
BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}


def validation_problems(
    error: ValidationError, values: Mapping[str, Any], source_map: SourceMap | None = None
) -> list[Problem]:
    """One problem for each invalid path of ``values``, the recipe as plain values.

    With ``source_map``, messages name the environment variables that a value came from.
    """
    invalid: dict[Path, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        invalid.setdefault(_written_path(detail["loc"], values), []).append(detail)
    return [
        _problem(path, details, source_map, suggest=number < MAX_SUGGESTIONS)
        for number, (path, details) in enumerate(invalid.items())
    ]


def paths_expecting_text(error: ValidationError, values: Mapping[str, Any]) -> list[Path]:
    """The paths in ``values`` that need text and have a value of another type."""
    details = error.errors(include_url=False)
    return [_written_path(detail["loc"], values) for detail in details if detail["type"] == "string_type"]


def _written_path(loc: tuple[int | str, ...], values: Any) -> Path:
    """The path in the user's values. pydantic's ``loc`` also has union members and the list around a single source."""
    path: list[str | int] = []
    current = values
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        if isinstance(current, Mapping):
            if part in current:
                current = current[part]
            elif isinstance(part, int) or not last or _is_union_member(part):
                continue
            path.append(part)
        elif isinstance(current, list) and isinstance(part, int) and part < len(current):
            path.append(part)
            current = current[part]
    return tuple(path)


def _is_union_member(part: str | int) -> bool:
    return isinstance(part, str) and (part in {"str", "int", "float", "bool"} or "[" in part)


def _problem(path: Path, details: list[ErrorDetails], source_map: SourceMap | None, *, suggest: bool) -> Problem:
    detail = details[0]
    if detail["type"] == "missing":
        name = str(detail["loc"][-1])
        section = path[:-1] if path and path[-1] == name else path
        return Problem("missing-key", f"`{name}` is required.", format_path((*section, name)), remedy=f"Add `{name}`.")
    if detail["type"] == "extra_forbidden":
        if path[:-1] == ("dataset", "eval") and path[-1] in Source.model_fields:
            return _split_and_source(str(path[-1]), source_map)
        if path[0] == "launch" and (policy := _launch_policy(path)):
            return Problem(
                "unsupported-launch-setting",
                f"cannot be set here. {policy.reason}",
                format_path(path),
                remedy=policy.remedy,
            )
        policy = UNSUPPORTED_PEFT_ARGS.get(str(path[0]), {}).get(str(path[-1])) if len(path) == 2 else None
        return _unsupported_argument(path, policy) if policy else _unknown_key(path, suggest)
    if path == ("lora", "init_lora_weights") and isinstance(detail["input"], str):
        for prefix, policy in UNSUPPORTED_LORA_INITS.items():
            if detail["input"].startswith(prefix):
                return _unsupported_argument(path, policy, detail["input"])
    rules = list(dict.fromkeys(_rule(each) for each in details))
    value = detail["input"]
    message = f"must be {' or '.join(rules)}, but {_describe_value(format_path(path), value, source_map)}."
    remedy = missing_space(str(path[-1])) if path and value is None else _remedy(value, details)
    is_source = path[:2] in (("dataset", "train"), ("dataset", "eval")) and all(isinstance(at, int) for at in path[2:])
    if is_source and isinstance(value, str) and remedy is None:
        remedy = f"Write it as the path of a source: `{{path: {value}}}`."
    return Problem("invalid-value", message, format_path(path), remedy=remedy)


def _describe_value(path: str, value: Any, source_map: SourceMap | None) -> str:
    """The value and the reference to the environment that it came from; a secret is not shown."""
    origin = source_map.origin(path) if source_map else None
    if source_map is None or origin is None or not origin.variables:
        return f"is {_format_value(value)}"
    return f"`{origin.written}` is {'not' if source_map.is_secret(path) else _format_value(value)}"


def _rule(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in TYPE_NAMES:
        return TYPE_NAMES[kind]
    if kind == "literal_error":
        return f"one of {context['expected']}" if " or " in str(context["expected"]) else str(context["expected"])
    if kind in BOUNDS:
        key, word = BOUNDS[kind]
        return f"{word} {context[key]}"
    if kind in {"string_too_short", "too_short"}:
        return "given (not empty)"
    if kind == "string_pattern_mismatch":
        return f"of the form {context['pattern']}"
    return detail["msg"].removeprefix("Input should be ")


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "empty"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, str) and secret_kind(value):
        return "a text that is not shown, because it looks like a secret"
    text = repr(value) if isinstance(value, str) else str(value)
    kind = "the text " if isinstance(value, str) else ""
    return kind + (text if len(text) <= 60 else text[:57] + "…")


def _remedy(value: Any, details: list[ErrorDetails]) -> str | None:
    kinds = {detail["type"] for detail in details}
    if not isinstance(value, str):
        is_scalar = isinstance(value, int | float) and kinds == {"string_type"}
        return f'Put it in quotes: "{_format_value(value)}".' if is_scalar else None
    if "bool_type" in kinds and value.lower() in BOOLEANS:
        return f"Write {BOOLEANS[value.lower()]}."
    if "bool_type" in kinds and value.lower() in ("true", "false"):
        return "Remove the quotes." if value.islower() else f"Write {value.lower()}."
    if value in ("None", "none", "nil", "undefined") and "literal_error" not in kinds:
        return "Write null, or remove the key."
    if kinds & {"int_type", "float_type"} and (remedy := _number_remedy(value, integer="float_type" not in kinds)):
        return remedy
    if kinds & {"model_type", "dict_type", "list_type"} and (remedy := missing_space(value)):
        return remedy
    for detail in details:
        if detail["type"] == "literal_error":
            choices = str(detail["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
            if close := closest_name(value, choices):
                return f"Did you mean `{close}`?"
    return None


def _number_remedy(text: str, *, integer: bool) -> str | None:
    """Remedy for a text that people read as a number: in quotes, or with characters that a number of YAML 1.2 does not have."""
    if any(kind in ("int", "float") and pattern.fullmatch(text) for kind, pattern in SCALAR_KINDS):
        return "Remove the quotes."
    plain = re.sub(r"[\s'’]", "", text).translate(DASHES)
    plain = re.sub(r"(?<=\d)_(?=\d)", "", plain)
    if re.fullmatch(r"-?[1-9]\d{0,2}(,\d{3})+", plain):
        plain = plain.replace(",", "")
    plain = re.sub(r"^(-?\d+),(\d+)", r"\1.\2", plain)  # a decimal comma
    plain = re.sub(r"^(?:1[*×x])?10(?:\^|\*\*)(-?\d+)$", r"1e\1", plain)
    scale = {"%": 0.01, "k": 1e3, "m": 1e6}.get(plain[-1:].lower())
    try:
        number = float(plain[:-1]) * scale if scale else float(plain)
    except ValueError:
        return None
    if not math.isfinite(number) or (integer and not number.is_integer()):
        return None
    written = str(int(number)) if number.is_integer() and abs(number) < 1e15 else f"{number:.10g}"
    return f"Write {written}: a number has only digits, a point and an exponent."


def _split_and_source(key: str, source_map: SourceMap | None) -> Problem:
    origin = source_map.origin("dataset.eval.test_size") if source_map else None
    where = f" ({origin})" if origin else ""
    return Problem(
        "split-and-source",
        f"configures a source of held-out pairs, but test_size{where} splits them from the training pairs.",
        f"dataset.eval.{key}",
        remedy="Keep one of the two; null removes an inherited value.",
    )


def _unsupported_argument(path: Path, policy: ArgumentPolicy, value: str = "") -> Problem:
    """The problem of an argument, or of its ``value``, that the library of the section has and a recipe does not support."""
    message = f"{value} is not supported: {policy.reason}.".lstrip()
    return Problem("unsupported-peft-argument", message, format_path(path), remedy=policy.remedy)


def _launch_policy(path: Path) -> ArgumentPolicy | None:
    """The policy of a setting of accelerate that `launch` or `launch.fsdp_config` does not have."""
    key = str(path[-1])
    if len(path) == 2:
        return UNSUPPORTED_LAUNCH_ARGS.get(key)
    name = key.removeprefix("fsdp_")
    name = RENAMED.get(name, name)
    if name in FsdpConfig.model_fields:
        return ArgumentPolicy("It has another name here.", f"Write `{name}`.")
    reason = WITHOUT_COUNTERPART.get(name)
    return ArgumentPolicy(reason, "Remove it.") if reason else None


def _unknown_key(path: Path, suggest: bool) -> Problem:
    *section, key = path
    name = format_path(tuple(section))
    message = f"unknown key in {f'`{name}`' if name else 'the recipe'}."
    outer, _, inner = str(key).partition(".")
    if inner and outer in known_keys(tuple(section)):
        remedy: str | None = f"Keys are nested: write `{inner}` below `{outer}:`, indented."
    else:
        remedy = missing_space(str(key)) or (did_you_mean_key(str(key), tuple(section)) if suggest else None)
    return Problem("unknown-key", message, format_path(path), remedy=remedy)
