"""Validation of a draft: convert values to the types of the schema, and leave out invalid values with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from orpo_cli.errors import Problem, RecipeError
from orpo_cli.recipe.convert.draft import Draft
from orpo_cli.recipe.convert.training_args import strip_removal_advice
from orpo_cli.recipe.legacy.migration import migrate_recipe
from orpo_cli.recipe.rules import rule_problems
from orpo_cli.recipe.rules.secrets import secrets_in_values
from orpo_cli.recipe.schema import Recipe
from orpo_cli.recipe.source.nodes import Path, format_path
from orpo_cli.recipe.source.yaml_reader import parse_value
from orpo_cli.recipe.validation_errors import validation_problems

BOOLEANS = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}


def fit_to_schema(draft: Draft, complete: Callable[[Draft], None]) -> None:
    """Change ``draft`` until the recipe is valid and has no setting without effect.

    ``complete`` adds placeholders for required values.

    Raises RecipeError if a problem is not in a value of the source, which would be an error of the converter.
    """
    complete(draft)
    while problems := _problems_to_fix(nest(draft.values)):
        problem = problems[0]
        path = _path_of_problem(draft, problem)
        if path is None:
            raise RecipeError(problems)
        if problem.code != "invalid-value" or not _try_other_types(draft, path):
            draft.withdraw(path, _reason(problem))
            complete(draft)
    for key, outcome in draft.outcomes.items():
        if outcome.outcome == "ignored" and outcome.path and not _is_valid_with(draft, outcome.path, outcome.offer):
            draft.outcomes[key] = replace(outcome, path=None, offer=None)


def _reason(problem: Problem) -> str:
    parts = (problem.path, problem.message, strip_removal_advice(problem.remedy))
    return " ".join(part for part in parts if part)


def _problems_to_fix(values: dict[str, Any]) -> list[Problem]:
    """Errors of a recipe given as plain values or, if there are none, warnings about settings without effect."""
    problems = _problems(values)
    errors = [problem for problem in problems if problem.severity == "error"]
    return errors or [problem for problem in problems if problem.code.endswith("-unused")]


def _problems(values: dict[str, Any]) -> list[Problem]:
    """Errors and warnings of a recipe given as plain values."""
    secrets = list(secrets_in_values(values))
    values, _, warnings = migrate_recipe(values)
    try:
        return [*secrets, *warnings, *rule_problems(Recipe.model_validate(values))]
    except ValidationError as error:
        return [*secrets, *warnings, *validation_problems(error, values)]


def nest(values: Mapping[Path, Any]) -> dict[str, Any]:
    """Nested mapping of values by path: ``{("model", "dtype"): x}`` becomes ``{"model": {"dtype": x}}``; indexes become lists."""
    tree: dict[Any, Any] = {}
    for path, value in sorted(values.items(), key=lambda item: len(item[0])):
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = dict(value) if isinstance(value, dict) else value
    return {key: _indexes_to_lists(value) for key, value in tree.items()}


def _indexes_to_lists(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    if tree and all(isinstance(key, int) for key in tree):
        return [_indexes_to_lists(tree[index]) for index in sorted(tree)]
    return {key: _indexes_to_lists(value) for key, value in tree.items()}


def _path_of_problem(draft: Draft, problem: Problem) -> Path | None:
    """Path of the value with the problem: at the problem's path, above it, or the last one below it."""
    paths = {
        format_path(path): path for path in draft.values if not (added := draft.additions.get(path)) or not added.todo
    }
    above = [path for name, path in paths.items() if _is_inside(problem, name)]
    below = [path for name, path in paths.items() if name.startswith((f"{problem.path}.", f"{problem.path}["))]
    return next(iter(above or below[::-1]), None)


def _is_inside(problem: Problem, name: str) -> bool:
    """Whether the problem is at the dotted path ``name`` or below it."""
    return problem.path == name or problem.path.startswith((f"{name}.", f"{name}["))


def _try_other_types(draft: Draft, path: Path) -> bool:
    """Convert the value at ``path`` to a type that makes it valid: ``"5e-6"`` to a number, ``no`` to false. Returns success."""
    original = draft.values[path]
    for candidate in _other_types(original):
        draft.values[path] = candidate
        if not any(_is_inside(problem, format_path(path)) for problem in _problems(nest(draft.values))):
            return True
    draft.values[path] = original
    return False


def _other_types(value: Any) -> Iterator[Any]:
    if isinstance(value, str):
        parsed = parse_value(value)
        if parsed is not None and not isinstance(parsed, str | dict):
            yield parsed
        if value.lower() in BOOLEANS:
            yield BOOLEANS[value.lower()]
        if "," in value:
            yield [part.strip() for part in value.split(",") if part.strip()]
        yield [value]
    elif isinstance(value, bool):
        yield "no" if not value else "auto"
        yield "none" if not value else "all"
    elif isinstance(value, int | float):
        if isinstance(value, float) and value.is_integer():
            yield int(value)
        yield float(value)
        yield str(value)
    elif isinstance(value, list) and len(value) == 1:
        yield value[0]
    elif isinstance(value, list) and all(isinstance(part, str) for part in value):
        yield ",".join(value)


def _is_valid_with(draft: Draft, path: Path, value: Any) -> bool:
    """Whether the recipe would be valid with ``value`` at ``path``, where it has no value."""
    return path not in draft.values and not _problems_to_fix(nest({**draft.values, path: value}))
