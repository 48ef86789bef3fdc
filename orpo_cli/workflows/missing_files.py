"""Local files that a recipe names and that do not exist on this machine: `orpo validate` opens none, and mentions them."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

from orpo_cli.errors import Problem
from orpo_cli.recipe.load import LoadedRecipe


def missing_file_notes(loaded: LoadedRecipe) -> Iterator[str]:
    """A line for each local model or source that does not exist, with its place in the recipe and the folders that were searched."""
    model = loaded.recipe.model.model_name_or_path
    is_local = model.startswith((".", "/", "~")) or model.endswith(".gguf") or model.count("/") > 1
    if is_local and not _exists(loaded, "model.model_name_or_path", model):
        yield _note(loaded, "model.model_name_or_path", model)
    for part in ("train", "eval"):
        sources = getattr(loaded.recipe.dataset, part)
        for index, source in enumerate(sources if isinstance(sources, list) else ()):
            path = f"dataset.{part}[{index}].path" if len(sources) > 1 else f"dataset.{part}.path"
            if not _exists(loaded, path, source.path) and (glob.has_magic(source.path) or _looks_local(source.path)):
                yield _note(loaded, path, source.path)


def _exists(loaded: LoadedRecipe, path: str, name: str) -> bool:
    return "://" in name or loaded.local_path(path, name) is not None


def _looks_local(name: str) -> bool:
    # Imports pydantic's models of dataset cards, so only where a path was not found.
    from orpo_cli.data.sources.source import looks_local

    return looks_local(name)


def _note(loaded: LoadedRecipe, path: str, name: str) -> str:
    where = "" if name.startswith("~") or Path(name).is_absolute() else f" (searched in {_searched(loaded, path)})"
    what = "no file here matches" if glob.has_magic(name) else "does not exist here"
    message = f"{name}: {what}{where}. `orpo train` needs it."
    located = loaded.source_map.locate_problem(Problem("data-refused", message, path))
    return f"{located.location()}: {located.message}"


def _searched(loaded: LoadedRecipe, path: str) -> str:
    return " and ".join(dict.fromkeys(str(folder.absolute()) for folder in loaded.search_directories(path)))
