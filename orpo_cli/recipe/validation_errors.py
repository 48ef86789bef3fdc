"""pydantic's errors in the words of a recipe: where, what, the rule and the remedy, each place once."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orpo_cli.errors import Problem
from orpo_cli.recipe.legacy.renamed_args import OTHER_NAMES
from orpo_cli.recipe.legacy.unsupported_peft_args import UNSUPPORTED_LORA_INITS, UNSUPPORTED_PEFT_ARGS
from orpo_cli.recipe.rules.secrets import secret_kind
from orpo_cli.recipe.schema import Recipe, Source
from orpo_cli.recipe.source.nodes import Path, format_path
from orpo_cli.recipe.source.source_map import SourceMap

MAX_SUGGESTIONS = (
    300  # a file with more unknown keys than this is no recipe; looking for what each could mean takes seconds
)

# What other tools and versions call keys of these sections, where no likeness would lead to the name here.
OTHER_TOOLS_KEYS = {
    "model": {
        "name": "model_name_or_path", "path": "model_name_or_path", "base_model": "model_name_or_path",
        "model_id": "model_name_or_path", "torch_dtype": "dtype", "precision": "dtype", "revision": "model_revision",
        "use_flash_attention_2": "attn_implementation", "attention": "attn_implementation", "template": "chat_template",
        "rope_parameters": "rope_scaling", "hf_token": "token",
    },
    "lora": {
        "lora_r": "r", "rank": "r", "lora_rank": "r", "lora_target": "target_modules",
        "lora_target_modules": "target_modules", "additional_target": "modules_to_save", "rslora": "use_rslora",
        "dora": "use_dora", "init_weights": "init_lora_weights",
    },
    "dataset": {"val_set_size": "eval", "test": "eval", "validation": "eval", "cutoff_len": "training.max_length"},
}  # fmt: skip

TYPE_NAMES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "list_type": "a list",
    "model_type": "a mapping of keys",
    "none_required": "null",
}


def validation_problems(
    error: ValidationError, values: Mapping[str, Any], places: SourceMap | None = None
) -> list[Problem]:
    """One problem for each place in ``values`` (the recipe as plain values) that pydantic refuses.

    ``places`` lets it name the environment variables that values came from.
    """
    refused: dict[Path, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        refused.setdefault(_written_path(detail["loc"], values), []).append(detail)
    problems = [_problem(place, details, places) for place, details in list(refused.items())[:MAX_SUGGESTIONS]]
    return problems + [
        _problem(place, details, places, suggest=False) for place, details in list(refused.items())[MAX_SUGGESTIONS:]
    ]


def paths_expecting_text(error: ValidationError, values: Mapping[str, Any]) -> list[Path]:
    """The places in ``values`` where text is asked for and something else stands."""
    details = error.errors(include_url=False)
    return [_written_path(detail["loc"], values) for detail in details if detail["type"] == "string_type"]


def _written_path(loc: tuple[int | str, ...], values: Any) -> Path:
    """The path in the user's own values. pydantic's paths also name union members and the list we put around one source."""
    path: list[str | int] = []
    here = values
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        if isinstance(here, Mapping):
            if part in here:
                here = here[part]
            elif isinstance(part, int) or not last or _is_union_member(part):
                continue
            path.append(part)
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            path.append(part)
            here = here[part]
    return tuple(path)


def _is_union_member(part: str | int) -> bool:
    return isinstance(part, str) and (part in {"str", "int", "float", "bool"} or "[" in part)


def _problem(place: Path, details: list[ErrorDetails], places: SourceMap | None, *, suggest: bool = True) -> Problem:
    detail = details[0]
    kind = detail["type"]
    if kind == "missing":
        name = detail["loc"][-1]
        return Problem(
            "missing-key", f"`{name}` is required and missing.", format_path((*_without_last(place, name), str(name)))
        )
    if kind == "extra_forbidden":
        if place[:-1] == ("dataset", "eval") and place[-1] in Source.model_fields:
            return _split_and_source(str(place[-1]), places)
        return _unsupported_argument(place) or _unknown_key(place, suggest)
    if init := _unsupported_lora_init(place, detail["input"]):
        return init
    rules = list(dict.fromkeys(_rule(each) for each in details))
    value = detail["input"]
    message = f"must be {' or '.join(rules)}, but {_describe_value(format_path(place), value, places)}."
    return Problem("invalid-value", message, format_path(place), remedy=_remedy(value, details))


def _describe_value(path: str, value: Any, places: SourceMap | None) -> str:
    """What the value is and, where it came from the environment, what it was written as; a secret is not shown."""
    origin = places.origin(path) if places else None
    if places is None or origin is None or not origin.variables:
        return f"is {_format_value(value)}"
    return f"`{origin.written}` is not" if places.is_secret(path) else f"`{origin.written}` is {_format_value(value)}"


def _without_last(place: Path, name: Any) -> Path:
    return place[:-1] if place and place[-1] == name else place


def _rule(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in TYPE_NAMES:
        return TYPE_NAMES[kind]
    if kind == "literal_error":
        return f"one of {context['expected']}" if " or " in str(context["expected"]) else str(context["expected"])
    bounds = {"greater_than": ("gt", "above"), "greater_than_equal": ("ge", "at least"), "less_than": ("lt", "below")}
    if kind in bounds:
        key, word = bounds[kind]
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
        return "a text that is not repeated here, because it looks like a secret"
    text = repr(value) if isinstance(value, str) else str(value)
    kind = "the text " if isinstance(value, str) else ""
    return kind + (text if len(text) <= 60 else text[:57] + "…")


def _remedy(value: Any, details: list[ErrorDetails]) -> str | None:
    if not isinstance(value, str):
        return None
    kinds = {detail["type"] for detail in details}
    if "bool_type" in kinds and value.lower() in {"yes", "on", "no", "off"}:
        return f"Write {'true' if value.lower() in {'yes', 'on'} else 'false'}."
    if kinds & {"int_type", "float_type"}:
        try:
            float(value)
        except ValueError:
            return None
        return "Remove the quotes."
    for detail in details:
        if detail["type"] == "literal_error":
            choices = str(detail["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
            if close := _close_matches(value, choices):
                return f"Did you mean `{close[0]}`?"
    return None


def _split_and_source(key: str, places: SourceMap | None) -> Problem:
    origin = places.origin("dataset.eval.test_size") if places else None
    where = f" ({origin})" if origin else ""
    return Problem(
        "split-and-source",
        f"names held-out pairs beside test_size{where}, which cuts them from train.",
        f"dataset.eval.{key}",
        remedy="Keep one of both; null takes a value away.",
    )


def _unsupported_argument(place: Path) -> Problem | None:
    """A problem for a key that the library of a section has, and a recipe does not take."""
    fate = UNSUPPORTED_PEFT_ARGS.get(str(place[0]), {}).get(str(place[-1])) if len(place) == 2 else None
    if fate is None:
        return None
    return Problem("unsupported-peft-argument", f"is not taken: {fate.reason}.", format_path(place), remedy=fate.remedy)


def _unsupported_lora_init(place: Path, value: Any) -> Problem | None:
    """The same for a start of the adapter."""
    if place != ("lora", "init_lora_weights") or not isinstance(value, str):
        return None
    fate = next((fate for start, fate in UNSUPPORTED_LORA_INITS.items() if value.startswith(start)), None)
    if fate is None:
        return None
    return Problem(
        "unsupported-peft-argument", f"{value} is not taken: {fate.reason}.", format_path(place), remedy=fate.remedy
    )


def _unknown_key(place: Path, suggest: bool) -> Problem:
    *around, key = place
    section = format_path(tuple(around))
    known = sorted(known_keys(tuple(around)))
    message = f"unknown key in {f'`{section}`' if section else 'the recipe'}."
    remedy = _nearest(str(key), section, known) if suggest else None
    return Problem("unknown-key", message, format_path(place), remedy=remedy)


def _nearest(key: str, section: str, known: Iterable[str]) -> str:
    if section == "training" and key in OTHER_NAMES:
        return OTHER_NAMES[key]
    if name := OTHER_TOOLS_KEYS.get(section, {}).get(key):
        return f"It is called `{name}`."
    homes = [name for name in Recipe.model_fields if key in known_keys((name,)) and name != section]
    if close := _close_matches(key, known, 0.75):
        return f"Did you mean `{close[0]}`?"
    if homes:
        return f"It belongs in `{homes[0]}`."
    if close := _close_matches(key, known, 0.5):
        return f"Did you mean `{close[0]}`?"
    return f"Known here: {', '.join(known)}." if len(list(known)) <= 20 else "See docs/reference/training-arguments.md."


def _close_matches(word: str, known: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """The nearest of the known words, or none that is near."""
    from difflib import get_close_matches

    return get_close_matches(word, list(known), n=1, cutoff=cutoff)


def known_keys(path: Path) -> set[str]:
    """The keys that the schema knows at ``path``; of a union, those of every member."""
    models: list[Any] = [Recipe]
    for part in path:
        if isinstance(part, int):
            continue
        models = [
            member
            for model in models
            if part in model.model_fields
            for member in _models_in(model.model_fields[part].annotation)
        ]
    return {name for model in models for name in model.model_fields}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if (
        isinstance(annotation, type)
        and not isinstance(annotation, types.GenericAlias)
        and issubclass(annotation, BaseModel)
    ):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models_in(part)]
