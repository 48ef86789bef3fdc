"""From files and overrides to a validated recipe. Every problem of a recipe comes at once."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from orpo_cli.errors import Problem, RecipeError
from orpo_cli.recipe.legacy.unsupported_training_args import UNSUPPORTED_TRAINING_ARGS
from orpo_cli.recipe.rules import rule_problems
from orpo_cli.recipe.rules.secrets import secrets_in_comments, secrets_in_values
from orpo_cli.recipe.schema import Recipe
from orpo_cli.recipe.schema.training import OPTIMIZERS
from orpo_cli.recipe.schema.training_fields import TrainingFields
from orpo_cli.recipe.source.env_vars import expand_env_vars, secret_variables
from orpo_cli.recipe.source.extends import resolve_extends
from orpo_cli.recipe.source.nodes import COMMAND_LINE, MappingNode, Path, ScalarNode, format_path, plain_values
from orpo_cli.recipe.source.overrides import apply_overrides
from orpo_cli.recipe.source.recipe_files import STANDARD_INPUT, RecipeFile, read_recipe
from orpo_cli.recipe.source.source_map import OriginKind, SourceMap
from orpo_cli.secret_values import register_secrets

# Training arguments that nothing needs to be known of but the schema; this tool's own also have a former meaning.
CURRENT_ARGS = TrainingFields.model_fields.keys() - UNSUPPORTED_TRAINING_ARGS.keys()


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe and where it came from."""

    recipe: Recipe
    files: tuple[RecipeFile, ...]  # the recipe's own, then what it extends
    overrides: tuple[str, ...]
    source_map: SourceMap
    warnings: tuple[Problem, ...] = ()  # what holds, but is hardly meant

    @property
    def file(self) -> str:
        """The recipe's file as shown in messages: the path, or <stdin>."""
        return self.files[0].shown

    @property
    def directory(self) -> FilePath:
        """Where the recipe lies."""
        return self.files[0].directory

    @property
    def text(self) -> str:
        """The recipe as the user wrote it."""
        return self.files[0].text

    @property
    def name(self) -> str:
        """The recipe's name: its own, or the file's."""
        return self.recipe.name or ("recipe" if self.file == STANDARD_INPUT else FilePath(self.file).stem)

    def origin(self, path: str) -> OriginKind:
        """Where the value at a dotted path came from: ``recipe``, ``override``, ``environment`` or ``default``."""
        return self.source_map.origin_kind(path)

    def local_path(self, path: str, name: str) -> FilePath | None:
        """The file or folder that the value ``name`` at a dotted path means, absolute; None where there is none.

        A pattern (``data/*.jsonl``) that something matches stays a pattern.
        """
        for folder in self.search_folders(path):
            try:
                if (candidate := folder / FilePath(name).expanduser()).exists():
                    return candidate.resolve()
                if any(sign in name for sign in "*?[") and any(glob.iglob(str(candidate), recursive=True)):
                    return candidate.absolute()
            except (OSError, RuntimeError, ValueError):  # too long, no such user, a null byte: not a path
                return None
        return None

    def search_folders(self, path: str) -> tuple[FilePath, FilePath]:
        """Where a file that the value at a dotted path names is looked up.

        First beside the recipe that says it, then in the current directory; the other way round for an override.
        """
        origin = self.source_map.origin(path)
        if origin is not None and origin.file == COMMAND_LINE:
            return FilePath.cwd(), self.directory
        beside = next((each.directory for each in self.files if origin and each.shown == origin.file), self.directory)
        return beside, FilePath.cwd()


def load_recipe(source: str, overrides: Sequence[str] = (), *, strict: bool = False) -> LoadedRecipe:
    """Read ``source`` (a path, a shipped recipe's name, or ``-``), what it extends, and apply ``section.key=value`` overrides.

    With ``strict`` a warning is an error. Raises UsageError where the file cannot be read, RecipeError with every problem
    in it (the warnings too) otherwise.
    """
    tree, files = resolve_extends(read_recipe(source))
    for override in overrides:
        tree = apply_overrides(tree, override)
    written = list(secrets_in_values(plain_values(tree)))
    order = [COMMAND_LINE, *(file.shown for file in files)]
    tree = expand_env_vars(tree, os.environ)
    values, moved, notes = _migrate(tree, order)
    secrets = frozenset(secret_variables(tree))
    register_secrets(secrets)
    places = SourceMap(tree, moved, secrets)
    recipe, found = _validate(values, places)
    known = {problem.path for problem in written}
    placed = [
        places.locate_problem(problem)
        for problem in (*written, *(each for each in notes if each.path not in known), *found)
    ]
    placed += [problem for file in files for problem in secrets_in_comments(file.text, file.shown)]
    placed.sort(key=lambda problem: (order.index(str(problem.file)), problem.line or 0, problem.column or 0))
    if recipe is None or any(strict or problem.severity == "error" for problem in placed):
        raise RecipeError(placed)
    return LoadedRecipe(recipe, files, tuple(overrides), places, tuple(placed))


def _migrate(tree: MappingNode, layers: list[str]) -> tuple[dict[str, Any], dict[str, str], tuple[Problem, ...]]:
    """The values, where those that moved were written, and what is said of them.

    What knows former names is imported only for a recipe that has some.
    """
    training = tree.nodes.get("training")
    if not isinstance(training, MappingNode):
        return plain_values(tree), {}, ()
    optimizer = training.nodes.get("optim")
    usual = optimizer is None or (isinstance(optimizer, ScalarNode) and optimizer.value in OPTIMIZERS)
    if usual and training.nodes.keys() <= CURRENT_ARGS:
        return plain_values(tree), {}, ()

    from orpo_cli.recipe.legacy.alias_precedence import drop_superseded_aliases
    from orpo_cli.recipe.legacy.migration import migrate_recipe

    return migrate_recipe(plain_values(drop_superseded_aliases(tree, layers)))


def _validate(values: dict[str, Any], places: SourceMap) -> tuple[Recipe | None, list[Problem]]:
    """The recipe and what its rules say; None and what the schema says where it does not hold."""
    try:
        try:
            recipe = Recipe.model_validate(values)
        except ValidationError as error:  # a value from the environment looks like a number where text is meant
            from orpo_cli.recipe.validation_errors import paths_expecting_text, validation_problems

            if not _use_environment_text(paths_expecting_text(error, values), values, places):
                raise
            recipe = Recipe.model_validate(values)
    except ValidationError as error:
        return None, validation_problems(error, values, places)
    return recipe, list(rule_problems(recipe))


def _use_environment_text(paths: list[Path], values: dict[str, Any], places: SourceMap) -> bool:
    """Give the values at ``paths`` that come from the environment as the text that they are there; whether any was."""
    any_was = False
    for path in paths:
        node = places.find(format_path(path))
        if isinstance(node, ScalarNode) and node.text is not None:
            here: Any = values
            for part in path[:-1]:
                here = here[part]
            here[path[-1]] = node.text
            any_was = True
    return any_was
