"""Recipe loading: files, parents, overrides and environment variables become one validated recipe.

All problems of a recipe are reported at once.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from orpo_cli.errors import Problem, RecipeError, UsageError
from orpo_cli.recipe.legacy.unsupported_training_args import UNSUPPORTED_TRAINING_ARGS
from orpo_cli.recipe.remote_code import remote_code_problem
from orpo_cli.recipe.rules import rule_problems
from orpo_cli.recipe.rules.secrets import secrets_in_comments, secrets_in_values
from orpo_cli.recipe.schema import Recipe
from orpo_cli.recipe.schema.training import OPTIMIZERS
from orpo_cli.recipe.schema.training_fields import TrainingFields
from orpo_cli.recipe.source.env_vars import expand_env_vars, secret_variables
from orpo_cli.recipe.source.extends import resolve_extends
from orpo_cli.recipe.source.nodes import COMMAND_LINE, MappingNode, Path, ScalarNode, format_path, plain_values
from orpo_cli.recipe.source.overrides import apply_overrides
from orpo_cli.recipe.source.recipe_files import PYTHON_RECIPE, STANDARD_INPUT, RecipeFile, read_recipe
from orpo_cli.recipe.source.source_map import OriginKind, SourceMap
from orpo_cli.secret_values import register_secrets

# Training arguments that need no migration. Supported arguments with a policy are not among them.
CURRENT_ARGS = TrainingFields.model_fields.keys() - UNSUPPORTED_TRAINING_ARGS.keys()


@dataclass(frozen=True)
class LoadedRecipe:
    """A validated recipe with its files and the origin of its values."""

    recipe: Recipe
    files: tuple[RecipeFile, ...]  # the file of the recipe, then those that it extends
    overrides: tuple[str, ...]
    source_map: SourceMap
    warnings: tuple[Problem, ...] = ()
    in_memory: Mapping[str, str] | None = None  # of a Python program: dotted path → the kind of its object; else None

    @property
    def file(self) -> str:
        """The file of the recipe in messages: its path, or <stdin>."""
        return self.files[0].display_name

    @property
    def name(self) -> str:
        """The name in the recipe, or else the name of the file."""
        return self.recipe.name or (
            "recipe" if self.file in (STANDARD_INPUT, PYTHON_RECIPE) else FilePath(self.file).stem
        )

    @property
    def output_dir(self) -> FilePath:
        """The absolute path of the run directory. By default it is below ``runs``, whatever the name is: ``../../x`` becomes ``x``."""
        name, written = self.name, self.recipe.output_dir
        inside = not FilePath(name).is_absolute() and ".." not in FilePath(name).parts
        default = FilePath("runs") / (name if inside else re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run")
        try:
            return FilePath(written or default).expanduser().absolute()
        except (RuntimeError, ValueError) as error:
            raise UsageError(
                f"output_dir {written}: {error}", remedy="Choose another: --set output_dir=DIR."
            ) from error

    def origin_kind(self, path: str) -> OriginKind:
        """The origin of the value at a dotted path: ``recipe``, ``override``, ``environment`` or ``default``."""
        return self.source_map.origin_kind(path)

    def model_folder(self) -> FilePath | None:
        """The folder of the model; None for a hub id or a file."""
        model = self.recipe.model
        path = self.local_path("model.model_name_or_path", model.model_name_or_path)
        return path / model.subfolder if path is not None and path.is_dir() else None

    def local_path(self, path: str, name: str) -> FilePath | None:
        """The absolute path of the file or directory ``name``, the value at a dotted path; None if it does not exist.

        A pattern (``data/*.jsonl``) with at least one match is returned as a pattern.
        """
        for directory in self.search_directories(path):
            try:
                if (candidate := directory / FilePath(name).expanduser()).exists():
                    return candidate.resolve()
                if any(character in name for character in "*?[") and any(glob.iglob(str(candidate), recursive=True)):
                    return candidate.absolute()
            except (OSError, RuntimeError, ValueError):  # not a path: too long, unknown user, null byte
                return None
        return None

    def search_directories(self, path: str) -> tuple[FilePath, FilePath]:
        """Directories in which a file that the value at a dotted path names is searched.

        The first is the directory of the recipe file with the value, the second the current directory; for an override, the order
        is reversed.
        """
        origin, directory = self.source_map.origin(path), self.files[0].directory
        if origin is not None and origin.file == COMMAND_LINE:
            return FilePath.cwd(), directory
        files = (each for each in self.files if origin and each.display_name == origin.file)
        return next((each.directory for each in files), directory), FilePath.cwd()


def load_recipe(
    source: str | RecipeFile,
    overrides: Sequence[str] = (),
    *,
    strict: bool = False,
    in_memory: Mapping[str, str] | None = None,
) -> LoadedRecipe:
    """Read ``source`` (a path, the name of a shipped recipe, ``-``, or a file that is read already) and its parents, and apply
    ``section.key=value`` overrides.

    With ``strict``, warnings are errors. ``in_memory``: that of the result. Raises UsageError if the file cannot be read, and RecipeError with all problems,
    including warnings, if there is an error.
    """
    tree, files = resolve_extends(read_recipe(source) if isinstance(source, str) else source)
    for override in overrides:
        tree = apply_overrides(tree, override)
    secret_problems = list(secrets_in_values(plain_values(tree)))
    order = [COMMAND_LINE, *(file.display_name for file in files)]
    tree = expand_env_vars(tree, os.environ)
    values, written_paths, migration_problems = _migrate(tree, order)
    secrets = frozenset(secret_variables(tree))
    register_secrets(secrets)
    source_map = SourceMap(tree, written_paths, secrets, of_python=in_memory is not None)
    recipe, schema_problems = _validate(values, source_map)
    loaded = None if recipe is None else LoadedRecipe(recipe, files, tuple(overrides), source_map, in_memory=in_memory)
    if loaded is not None and (warning := remote_code_problem(loaded.recipe.model, loaded.model_folder())) is not None:
        schema_problems.append(warning)
    secret_paths = {problem.path for problem in secret_problems}
    migration_problems = tuple(each for each in migration_problems if each.path not in secret_paths)
    found = (*secret_problems, *migration_problems, *schema_problems)
    problems = [source_map.locate_problem(problem) for problem in found]
    problems += [problem for file in files for problem in secrets_in_comments(file.text, file.display_name)]
    problems.sort(
        key=lambda problem: (order.index(problem.file or COMMAND_LINE), problem.line or 0, problem.column or 0)
    )
    if loaded is None or any(strict or problem.severity == "error" for problem in problems):
        raise RecipeError(problems)
    return replace(loaded, warnings=tuple(problems))


def _migrate(tree: MappingNode, layers: list[str]) -> tuple[dict[str, Any], dict[str, str], tuple[Problem, ...]]:
    """The plain values with current names, the written paths of moved values, and the problems of the migration.

    The migration is imported only for recipes that need it, to keep the start-up time low.
    """
    training = tree.nodes.get("training")
    arguments = training.nodes if isinstance(training, MappingNode) else {}
    optimizer = arguments.get("optim")
    current = optimizer is None or (isinstance(optimizer, ScalarNode) and optimizer.value in OPTIMIZERS)
    if current and arguments.keys() <= CURRENT_ARGS:
        return plain_values(tree), {}, ()

    from orpo_cli.recipe.legacy.migration import drop_superseded_aliases, migrate_recipe

    return migrate_recipe(plain_values(drop_superseded_aliases(tree, layers)))


def _validate(values: dict[str, Any], source_map: SourceMap) -> tuple[Recipe | None, list[Problem]]:
    """The recipe and the problems of the rules; or None and the problems of the schema."""
    try:
        try:
            recipe = Recipe.model_validate(values)
        except ValidationError as error:  # perhaps a text from the environment was read as a number
            from orpo_cli.recipe.validation_errors import paths_expecting_text, validation_problems

            if not _use_environment_text(paths_expecting_text(error, values), values, source_map):
                raise
            recipe = Recipe.model_validate(values)
    except ValidationError as error:
        return None, validation_problems(error, values, source_map)
    return recipe, list(rule_problems(recipe))


def _use_environment_text(paths: list[Path], values: dict[str, Any], source_map: SourceMap) -> bool:
    """Replace the values at ``paths`` that come from the environment by their text; whether there was any."""
    replaced = False
    for path in paths:
        node = source_map.find_node(format_path(path))
        if isinstance(node, ScalarNode) and node.text is not None:
            parent: Any = values
            for part in path[:-1]:
                parent = parent[part]
            parent[path[-1]] = node.text
            replaced = True
    return replaced
