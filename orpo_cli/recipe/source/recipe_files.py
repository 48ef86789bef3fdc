"""Recipe files: reading a recipe, a shipped recipe, standard input, or the parent of a recipe."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from orpo_cli.errors import UsageError
from orpo_cli.nearest_path import near_path_remedy
from orpo_cli.recipe.did_you_mean import closest_name
from orpo_cli.recipe.source.shipped_recipes import find_shipped, shipped_recipes
from orpo_cli.recipe.source.yaml_reader import MAX_BYTES, decode_text

STANDARD_INPUT = "<stdin>"
PYTHON_RECIPE = "<recipe>"  # sections that a Python program gives


@dataclass(frozen=True)
class RecipeFile:
    """The text of a recipe and its location."""

    display_name: str  # the name in messages: the path, <stdin> or <recipe>
    directory: Path  # absolute; relative paths in the text are first searched here
    text: str

    def identity(self) -> Path | str:
        """The same value for the same file, even if it was read under two names."""
        if self.display_name in (STANDARD_INPUT, PYTHON_RECIPE):
            return self.display_name
        return (self.directory / Path(self.display_name).name).resolve()


def read_recipe(source: str) -> RecipeFile:
    """Read the recipe ``source``: a path, the name of a shipped recipe, or ``-``.

    Raises UsageError if it does not exist, and RecipeError if it is not text.
    """
    if source == "-":
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
        return RecipeFile(STANDARD_INPUT, Path.cwd(), decode_text(data, STANDARD_INPUT))
    path = Path(source)
    if not _is_file(path) and path.suffix not in (".yaml", ".yml"):
        path = find_shipped(source) or path
    try:
        return _read(path)
    except FileNotFoundError:
        raise UsageError(
            f"{source}: no such recipe file.",
            remedy=_nearest_recipe(
                path, source, "`orpo recipes` lists the shipped recipes; `orpo init` writes a new one."
            ),
        ) from None


def read_parent(name: str, child: RecipeFile) -> RecipeFile:
    """Read the recipe that ``child`` extends: a path relative to its directory, or the name of a shipped recipe.

    Raises UsageError if it does not exist, and RecipeError if it is not text.
    """
    has_path = child.display_name not in (STANDARD_INPUT, PYTHON_RECIPE)
    directory = Path(child.display_name).parent if has_path else child.directory
    path = Path(os.path.normpath(directory / os.path.expanduser(name)))
    if not _is_file(path) and (shipped := find_shipped(name)):
        path = shipped
    if not _is_file(path) and _exists(path):  # a device or a pipe may have no end
        raise UsageError(
            f"{path} cannot be read: it is not a file.",
            remedy="Give the path of a recipe, or the name of a shipped recipe.",
        )
    try:
        return _read(path)
    except FileNotFoundError:
        otherwise = "Give a path relative to this file, or the name of a shipped recipe."
        raise UsageError(f"there is no recipe {path}.", remedy=_nearest_recipe(path, name, otherwise)) from None


def _nearest_recipe(path: Path, name: str, otherwise: str) -> str:
    """Remedy for a recipe that does not exist: the nearest recipe, a file or a shipped one, else ``otherwise``."""
    shipped = closest_name(name, [recipe.name for recipe in shipped_recipes()])

    def is_nearest(found: Path) -> bool:
        if found.suffix not in (".yaml", ".yml") or not found.is_file():
            return False
        return shipped is None or closest_name(path.name, [shipped, found.name]) == found.name

    return near_path_remedy(path, f"Did you mean `{shipped}`?" if shipped else otherwise, is_nearest)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # name too long, or no permission: reading the file then reports it
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _read(path: Path) -> RecipeFile:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)  # not more: /dev/zero has no end
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: the name has a null byte
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    return RecipeFile(str(path), path.absolute().parent, decode_text(data, str(path)))
