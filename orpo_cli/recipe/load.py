"""From a file (or standard input) and overrides to a validated recipe. Every problem of a recipe comes at once."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from orpo_cli.errors import Problem, RecipeError, UsageError
from orpo_cli.recipe.explain import dotted, locate, problems_of
from orpo_cli.recipe.rules import broken_rules
from orpo_cli.recipe.schema import Recipe
from orpo_cli.recipe.shipped import find_shipped
from orpo_cli.recipe.translation import today
from orpo_cli.recipe.yaml_source import Document, Mark, Path, parse_value, read_yaml


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe and where it came from."""

    recipe: Recipe
    file: str  # as shown in messages: the path, or <stdin>
    directory: FilePath  # relative paths in the recipe are looked up here first
    text: str  # as the user wrote it
    overrides: tuple[str, ...]
    marks: Mapping[Path, Mark]
    override_paths: tuple[Path, ...]
    warnings: tuple[Problem, ...] = ()  # what holds, but is hardly meant

    @property
    def name(self) -> str:
        """The recipe's name: its own, or the file's."""
        return self.recipe.name or ("recipe" if self.file == "<stdin>" else FilePath(self.file).stem)

    def origin(self, path: str) -> str:
        """Where the value at a dotted path came from: ``override``, ``recipe`` or ``default``."""
        if any(_covers(dotted(override), path) for override in self.override_paths):
            return "override"
        return "recipe" if any(dotted(mark) == path for mark in self.marks) else "default"


def load_recipe(source: str, overrides: Sequence[str] = (), *, strict: bool = False) -> LoadedRecipe:
    """Read ``source`` (a path, a shipped recipe's name, or ``-``) and apply ``section.key=value`` overrides.

    With ``strict`` a warning is an error. Raises UsageError where the file cannot be read, RecipeError with every problem
    in it (the warnings too) otherwise.
    """
    file, directory, text = _read(source)
    document = read_yaml(text, file)
    override_paths = tuple(_apply(document.values, override) for override in overrides)
    document.values, names, notes = today(document.values)
    override_paths = _renamed(document, override_paths, names)
    found = list(notes)
    try:
        recipe = Recipe.model_validate(document.values)
        found += broken_rules(recipe)
    except ValidationError as error:
        found += problems_of(error, document.values)
    placed = tuple(sorted((_placed(each, document, override_paths) for each in found), key=_order))
    if any(strict or each.severity == "error" for each in placed):
        raise RecipeError(placed)
    return LoadedRecipe(recipe, file, directory, text, tuple(overrides), document.marks, override_paths, placed)


def _read(source: str) -> tuple[str, FilePath, str]:
    if source == "-":
        return "<stdin>", FilePath.cwd(), sys.stdin.read()
    path = FilePath(source)
    if not path.exists() and path.suffix not in (".yaml", ".yml"):
        path = find_shipped(source) or path
    try:
        return str(path), path.absolute().parent, path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"{source}: no such recipe file.",
            remedy="`orpo recipes` lists the shipped ones, `orpo init` writes one to start from.",
        ) from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{source} is not UTF-8 text (byte {error.start}).", remedy="A recipe is a YAML file."
        ) from None
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror}.") from None


def _apply(values: dict[str, Any], override: str) -> Path:
    """Set one value; returns its path. ``dataset.train.0.path`` reaches into a list."""
    name, equals, text = override.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts):
        raise UsageError(f"--set {override}: must be of the form section.key=value.", remedy="Quote it for the shell.")
    path: list[str | int] = []
    here: Any = values
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        key: str | int = part
        if isinstance(here, list):
            if not part.isdigit() or int(part) >= len(here):
                raise UsageError(f"--set {override}: {dotted(tuple(path))} is a list of {len(here)}; give an index.")
            key = int(part)
        elif part not in here or (not last and here[part] is None):
            here[part] = {}
        path.append(key)
        if last:
            here[key] = parse_value(text.strip())
        else:
            here = here[key]
            if not isinstance(here, dict | list):
                raise UsageError(f"--set {override}: {dotted(tuple(path))} is a single value, not a section.")
    return tuple(path)


def _placed(problem: Problem, document: Document, override_paths: Sequence[Path]) -> Problem:
    """The problem with file, line and column; one that an override caused names the override."""
    if any(_covers(dotted(path), problem.path) for path in override_paths):
        return replace(problem, file="--set")
    path = next((path for path in document.marks if dotted(path) == problem.path), None)
    around = path or _split(problem.path)
    mark = locate(around, document.marks) or Mark(1, 1)
    return replace(problem, file=document.file, line=mark.line, column=mark.column)


def _renamed(document: Document, overrides: tuple[Path, ...], names: Mapping[str, str]) -> tuple[Path, ...]:
    """Give the values that `today` has moved the place where they were written; returns the paths that overrides set."""
    for now, written in names.items():
        if any(_covers(dotted(override), written) for override in overrides):
            overrides += (_split(now),)
        elif mark := document.marks.get(_split(written)):
            document.marks[_split(now)] = mark
    return overrides


def _covers(override: str, path: str) -> bool:
    return path == override or path.startswith((f"{override}.", f"{override}["))


def _split(text: str) -> Path:
    parts: list[str | int] = []
    for part in text.split("."):
        name, *indexes = part.replace("]", "").split("[")
        parts += [name, *(int(index) for index in indexes)]
    return tuple(parts)


def _order(problem: Problem) -> tuple[int, int]:
    return (problem.line or 0, problem.column or 0)
