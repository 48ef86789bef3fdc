"""Placeholders of `orpo convert` for values that its source does not have: a recipe is used only after they are replaced."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from orpo_cli.errors import Problem, RecipeError
from orpo_cli.recipe.load import LoadedRecipe, load_recipe
from orpo_cli.recipe.source.recipe_files import RecipeFile

_PLACEHOLDER = re.compile(r"TODO/[^/]*|TODO\.jsonl")  # TODO/base-model, TODO/NAME of a dataset, TODO.jsonl


def load_complete_recipe(
    source: str | RecipeFile,
    overrides: Sequence[str] = (),
    *,
    strict: bool = False,
    in_memory: Mapping[str, str] | None = None,
) -> LoadedRecipe:
    """As ``load_recipe``, and raises RecipeError also where a model or a source is still a placeholder."""
    loaded = load_recipe(source, overrides, strict=strict, in_memory=in_memory)
    problems = [loaded.source_map.locate_problem(problem) for problem in _placeholders(loaded)]
    if problems:
        raise RecipeError([*loaded.warnings, *problems])
    return loaded


def _placeholders(loaded: LoadedRecipe) -> Iterator[Problem]:
    """An error for each placeholder. The name of a file or folder that exists is none."""
    recipe = loaded.recipe
    values = [("model.model_name_or_path", recipe.model.model_name_or_path, "a hub id or a folder")]
    for part in ("train", "eval"):
        sources = getattr(recipe.dataset, part)
        for index, source in enumerate(sources if isinstance(sources, list) else ()):
            number = f"[{index}]" if len(sources) > 1 else ""
            values.append((f"dataset.{part}{number}.path", source.path, "a file, a folder or a hub dataset"))
    for path, value, kind in values:
        if _PLACEHOLDER.fullmatch(value) and loaded.local_path(path, value) is None:
            yield Problem("placeholder", f"{value} is a placeholder.", path, remedy=f"Write {kind} in its place.")
