"""Recipes in Python: of a file, of a shipped recipe, or of sections given as values; and data and models that are in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.api.arguments import Overrides, override_texts
from orpo_cli.api.dataset_messages import naming_missing_dataset
from orpo_cli.api.in_memory import SavedObject
from orpo_cli.api.messages import messages_for_python
from orpo_cli.errors import Problem, RecipeError, UsageError
from orpo_cli.recipe.load import LoadedRecipe
from orpo_cli.recipe.placeholders import load_complete_recipe
from orpo_cli.recipe.source.extends import resolve_extends
from orpo_cli.recipe.source.nodes import MappingNode, Node, SequenceNode, plain_values
from orpo_cli.recipe.source.overrides import apply_overrides
from orpo_cli.recipe.source.recipe_files import PYTHON_RECIPE, RecipeFile, read_recipe
from orpo_cli.recipe.source.rerunnable_recipe import rerunnable_recipe
from orpo_cli.recipe.source.yaml_writer import block_yaml, inline_yaml

if TYPE_CHECKING:
    from orpo_cli.recipe.schema import Recipe as RecipeSections


class Recipe:
    """A valid recipe, of sections with the names and the rules of a recipe file.

    ``Recipe(model={"model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct"}, dataset={"train": {"path": "pairs.jsonl"}})``

    Relative paths are those of the current directory. Raises RecipeError with all problems of the recipe.
    """

    def __init__(self, **sections: Any) -> None:
        with naming_missing_dataset("give `train` a mapping with these sections, and {argument}"):
            self._loaded = _load(sections, (), strict=False)

    @classmethod
    def load(cls, source: str | Path, *, overrides: Overrides = (), strict: bool = False) -> Recipe:
        """The recipe of a file, or the shipped recipe of this name, with overrides as for ``train``.

        ``strict``: warnings are errors. Raises UsageError where there is no such recipe, RecipeError where it is invalid.
        """
        recipe = cls.__new__(cls)
        with naming_missing_dataset("give `train` this recipe (and its overrides), and {argument}"):
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


# Keys of a source that say where its rows are; the others say what they mean and how they are used.
PLACE_KEYS = ("path", "name", "revision", "split", "streaming")

RecipeSource = Recipe | str | Path | Mapping[str, Any]


def resolve_recipe(
    source: RecipeSource, overrides: Overrides, *, strict: bool, saved: Mapping[str, SavedObject]
) -> LoadedRecipe:
    """The loaded recipe of any kind of source, with ``overrides`` after those that it has already.

    ``saved``: objects by the key of the recipe whose value they replace. A dataset has the options of the source that it replaces,
    such as ``columns``. Raises as ``Recipe.load``, and UsageError where it replaces several sources with different options.
    """
    overrides = override_texts(overrides)
    if isinstance(source, Recipe):
        if not overrides and not saved and not strict:
            return source._loaded
        file, overrides = source._loaded.files[0], (*source._loaded.overrides, *overrides)
    else:
        file = _recipe_file(source)
    sources = _dataset_nodes(file, overrides) if saved else {}
    given = _saved_values(sources, saved)
    with naming_missing_dataset():
        loaded = load_complete_recipe(
            file,
            (*overrides, *(f"{key}={inline_yaml(value)}" for key, value in given.items())),
            strict=strict,
            in_memory={key: each.kind for key, each in saved.items()},
        )
    keeps_eval = "dataset.train" in saved and "dataset.eval" not in saved and _has_path(sources.get("train"))
    if keeps_eval and not any(each.startswith("dataset.eval") for each in overrides):
        loaded = _with_warning(loaded, strict=strict)
    return loaded


def _with_warning(loaded: LoadedRecipe, *, strict: bool) -> LoadedRecipe:
    """``loaded``, whose training data were replaced, with a warning where its held-out pairs are a source of their own."""
    held_out = loaded.recipe.dataset.eval
    if not isinstance(held_out, list):
        return loaded
    warning = Problem(
        "held-out-of-recipe",
        f"the held-out pairs are those of the recipe ({', '.join(each.path for each in held_out)}), not of train_dataset. To hold out a "
        'part of it: overrides={"dataset.eval": {"test_size": 0.1}}; or give eval_dataset.',
        "dataset.eval",
        severity="warning",
    )
    if strict:
        raise RecipeError([warning])
    return replace(loaded, warnings=(*loaded.warnings, warning))


def _dataset_nodes(file: RecipeFile, overrides: Sequence[str]) -> Mapping[str, Node]:
    """The values of ``dataset`` in the recipe, before objects replace them."""
    tree, _ = resolve_extends(file)
    for override in overrides:
        tree = apply_overrides(tree, override)
    dataset = tree.nodes.get("dataset")
    return dataset.nodes if isinstance(dataset, MappingNode) else {}


def _has_path(node: Node | None) -> bool:
    sources = node.nodes if isinstance(node, SequenceNode) else [node]
    return any(isinstance(each, MappingNode) and "path" in each.nodes for each in sources)


def _saved_values(sources: Mapping[str, Node], saved: Mapping[str, SavedObject]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, each in saved.items():
        section, _, part = key.partition(".")
        values[key] = str(each.path)
        if section == "dataset":
            values[key] = {"path": str(each.path), **_source_options(sources.get(part), key, each.argument)}
    return values


def _source_options(node: Node | None, key: str, argument: str) -> dict[str, Any]:
    """The options of the source, or of all sources, at ``key``; none of a held-out split. Raises UsageError where they differ."""
    sources = plain_values(node) if isinstance(node, SequenceNode) else [plain_values(node)] if node else []
    options = [
        {name: value for name, value in each.items() if name not in PLACE_KEYS}
        for each in sources
        if isinstance(each, dict) and each.get("test_size") is None
    ]
    if any(each != options[0] for each in options):
        names = ", ".join(dict.fromkeys(name for each in options for name in each))
        raise UsageError(
            f"{argument}: it replaces the {len(options)} sources in {key} of the recipe, which have different options ({names}).",
            remedy=f'Leave them out with overrides=["{key}=null"], and name the columns as a format does: '
            f'{argument}=ds.rename_columns({{"question": "prompt"}}).',
        )
    return options[0] if options else {}


@messages_for_python()
def _load(source: str | Path | Mapping[str, Any], overrides: Overrides, *, strict: bool) -> LoadedRecipe:
    return load_complete_recipe(_recipe_file(source), override_texts(overrides), strict=strict, in_memory={})


def _recipe_file(source: str | Path | Mapping[str, Any]) -> RecipeFile:
    if not isinstance(source, Mapping):
        return read_recipe(str(source))
    values = json.loads(json.dumps(dict(source), default=str))  # tuples as lists, paths as text
    return RecipeFile(PYTHON_RECIPE, Path.cwd(), block_yaml(values))
