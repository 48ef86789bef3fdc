"""Makes a draft validate: values get the type that the recipe wants, and what it refuses is left out, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
    """Change ``draft`` until the recipe validates and says nothing in vain.

    ``complete`` puts in what a recipe cannot be without.

    Raises RecipeError where a problem is in nothing that the source said, which would be a mistake of the converter.
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
        if (
            outcome.outcome == "ignored"
            and outcome.path is not None
            and not _validates_with(draft, outcome.path, outcome.offer)
        ):
            draft.outcomes[key] = type(outcome)(
                outcome.key, outcome.value, outcome.outcome, None, outcome.note, outcome.line
            )


def _reason(problem: Problem) -> str:
    parts = (problem.path, problem.message, strip_removal_advice(problem.remedy))
    return " ".join(part for part in parts if part)


def _problems_to_fix(values: dict[str, Any]) -> list[Problem]:
    """The errors of a recipe given as plain values or, where it has none, the warnings about settings without effect."""
    found = problems_in(values)
    errors = [problem for problem in found if problem.severity == "error"]
    return errors or [problem for problem in found if problem.code.endswith("-unused")]


def problems_in(values: dict[str, Any]) -> list[Problem]:
    """What is wrong with a recipe given as plain values, and what is hardly meant."""
    secrets = list(secrets_in_values(values))
    values, _, notes = migrate_recipe(values)
    found = [*secrets, *notes]
    try:
        found += rule_problems(Recipe.model_validate(values))
    except ValidationError as error:
        found += validation_problems(error, values)
    return found


def nest(values: Mapping[Path, Any]) -> dict[str, Any]:
    """``{("model", "dtype"): x}`` as ``{"model": {"dtype": x}}``; list indexes become lists."""
    tree: dict[Any, Any] = {}
    for path, value in sorted(values.items(), key=lambda item: len(item[0])):
        here = tree
        for part in path[:-1]:
            here = here.setdefault(part, {})
        here[path[-1]] = dict(value) if isinstance(value, dict) else value
    listed = _lists(tree)
    assert isinstance(listed, dict)
    return listed


def _lists(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    if tree and all(isinstance(key, int) for key in tree):
        return [_lists(tree[index]) for index in sorted(tree)]
    return {key: _lists(value) for key, value in tree.items()}


def _path_of_problem(draft: Draft, problem: Problem) -> Path | None:
    """The value that a problem is about: at its path, around it, or the last one below it."""
    where = problem.path
    paths = {
        format_path(path): path for path in draft.values if not (added := draft.additions.get(path)) or not added.todo
    }
    around = [path for name, path in paths.items() if _is_inside(problem, name)]
    below = [path for name, path in paths.items() if name.startswith((f"{where}.", f"{where}["))]
    return next(iter(around or below[::-1]), None)


def _is_inside(problem: Problem, name: str) -> bool:
    """Whether the problem is in the value called ``name`` or inside it."""
    return problem.path == name or problem.path.startswith((f"{name}.", f"{name}["))


def _try_other_types(draft: Draft, path: Path) -> bool:
    """Give the value at ``path`` another type where that alone puts it right: ``"5e-6"`` as a number, ``no`` as false."""
    written = draft.values[path]
    for candidate in _other_types(written):
        draft.values[path] = candidate
        if not any(_is_inside(problem, format_path(path)) for problem in problems_in(nest(draft.values))):
            return True
    draft.values[path] = written
    return False


def _other_types(value: Any) -> Iterator[Any]:
    if isinstance(value, str):
        read = parse_value(value)
        if read is not None and not isinstance(read, str | dict):
            yield read
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
    elif isinstance(value, list) and all(isinstance(each, str) for each in value):
        yield ",".join(value)


def _validates_with(draft: Draft, path: Path, value: Any) -> bool:
    """Whether the recipe would still validate with ``value`` at a ``path`` where it has nothing."""
    return path not in draft.values and not _problems_to_fix(nest({**draft.values, path: value}))
