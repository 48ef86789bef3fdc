"""Recipes in Python: of a file, of a shipped recipe, or of sections given as values; and data and models that are in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.recipe.load import LoadedRecipe
from orpo_cli.recipe.placeholders import load_complete_recipe
from orpo_cli.recipe.source.recipe_files import PYTHON_RECIPE, RecipeFile
from orpo_cli.recipe.source.rerunnable_recipe import rerunnable_recipe
from orpo_cli.recipe.source.yaml_writer import block_yaml

if TYPE_CHECKING:
    from orpo_cli.errors import Problem
    from orpo_cli.recipe.schema import Recipe as RecipeSections


class Recipe:
    """A valid recipe, of sections with the names and the rules of a recipe file.

    ``Recipe(model={"model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct"}, dataset={"train": {"path": "pairs.jsonl"}})``

    Relative paths are those of the current directory. Raises RecipeError with all problems of the recipe.
    """

    def __init__(self, **sections: Any) -> None:
        self._loaded = _load(sections, (), strict=False)

    @classmethod
    def load(cls, source: str | Path, *, overrides: Sequence[str] = (), strict: bool = False) -> Recipe:
        """The recipe of a file, or the shipped recipe of this name, with ``section.key=value`` overrides.

        ``strict``: warnings are errors. Raises UsageError where there is no such recipe, RecipeError where it is invalid.
        """
        recipe = cls.__new__(cls)
        recipe._loaded = _load(source, overrides, strict=strict)
        return recipe

    @property
    def name(self) -> str:
        """Name of the run."""
        return self._loaded.name

    @property
    def output_dir(self) -> Path:
        """Absolute path of the run directory."""
        return self._loaded.output_dir

    @property
    def sections(self) -> RecipeSections:
        """The validated sections: ``recipe.sections.training.beta``."""
        return self._loaded.recipe

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Values that are probably a mistake."""
        return self._loaded.warnings

    def to_yaml(self) -> str:
        """The recipe as a YAML file that gives the same run in any directory."""
        return rerunnable_recipe(self._loaded)

    def __repr__(self) -> str:
        return f"Recipe({self.name!r}, model={self.sections.model.model_name_or_path!r})"


RecipeSource = Recipe | str | Path | Mapping[str, Any]


def resolve_recipe(source: RecipeSource, overrides: Sequence[str], *, strict: bool) -> LoadedRecipe:
    """The loaded recipe of any kind of source, with ``overrides`` after those that it has already. Raises as ``Recipe.load``."""
    if not isinstance(source, Recipe):
        return _load(source, overrides, strict=strict)
    loaded = source._loaded
    if not overrides and not strict:
        return loaded
    return load_complete_recipe(loaded.files[0], (*loaded.overrides, *overrides), strict=strict)


def _load(source: str | Path | Mapping[str, Any], overrides: Sequence[str], *, strict: bool) -> LoadedRecipe:
    if not isinstance(source, Mapping):
        return load_complete_recipe(str(source), overrides, strict=strict)
    values = json.loads(json.dumps(dict(source), default=str))  # tuples as lists, paths as text
    return load_complete_recipe(RecipeFile(PYTHON_RECIPE, Path.cwd(), block_yaml(values)), overrides, strict=strict)
