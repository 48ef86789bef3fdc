"""Local data files that a recipe names and that do not exist on this machine: `orpo validate` reads no data, and mentions them."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

from orpo_cli.errors import Problem
from orpo_cli.recipe.load import LoadedRecipe


def missing_data_notes(loaded: LoadedRecipe) -> Iterator[str]:
    """A line for each local source that does not exist, with its place in the recipe and the folders that were searched."""
    for part in ("train", "eval"):
        sources = getattr(loaded.recipe.dataset, part)
        for index, source in enumerate(sources if isinstance(sources, list) else ()):
            path = f"dataset.{part}[{index}].path" if len(sources) > 1 else f"dataset.{part}.path"
            if "://" in source.path or loaded.local_path(path, source.path) is not None:
                continue
            # Imports pydantic's models of dataset cards, so only where a path was not found.
            from orpo_cli.data.sources.source import looks_local

            is_pattern = glob.has_magic(source.path)
            if not (is_pattern or looks_local(source.path)):  # a dataset of the hub
                continue
            where = "" if _is_absolute(source.path) else f" (searched in {_searched(loaded, path)})"
            what = "no file here matches" if is_pattern else "does not exist here"
            message = f"{source.path}: {what}{where}. `orpo train` needs it."
            located = loaded.source_map.locate_problem(Problem("data-refused", message, path))
            yield f"{located.location()}: {located.message}"


def _searched(loaded: LoadedRecipe, path: str) -> str:
    return " and ".join(dict.fromkeys(str(folder.absolute()) for folder in loaded.search_directories(path)))


def _is_absolute(path: str) -> bool:
    return path.startswith("~") or Path(path).is_absolute()
