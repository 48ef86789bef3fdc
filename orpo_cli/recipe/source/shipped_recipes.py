"""Shipped recipes: the recipes of this package, with their names, families and summaries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import orpo_cli
from orpo_cli.errors import MachineError, UsageError
from orpo_cli.recipe.did_you_mean import did_you_mean

EDITOR_COMMENT = "# yaml-language-server:"


@dataclass(frozen=True)
class ShippedRecipe:
    """One shipped recipe."""

    name: str  # unique; the name of the file without .yaml: llama3-8b-qlora
    family: str  # its directory below the directory of all recipes: llama; empty for the quickstart
    path: Path
    summary: str  # the first line of the header comment

    def text(self) -> str:
        """The text of the file."""
        return self.path.read_text(encoding="utf-8")

    def text_to_copy(self) -> str:
        """The text without the comment that tells editors the relative path of the schema."""
        return "".join(line for line in self.text().splitlines(keepends=True) if not line.startswith(EDITOR_COMMENT))


def shipped_folder() -> Path:
    """The directory of the recipes: inside the package of a wheel, next to the package in a checkout.

    Raises MachineError if neither exists.
    """
    package = Path(orpo_cli.__file__).parent  # importlib.resources would take longer to import
    for folder in (package / "_recipes", package.parent / "recipes"):
        if folder.is_dir():
            return folder
    raise MachineError(
        f"the shipped recipes are missing from this installation of orpo-cli ({package}).",
        remedy="Install orpo-cli again, from a wheel or a checkout.",
    )


def shipped_recipes() -> list[ShippedRecipe]:
    """All shipped recipes, sorted by family and name."""
    folder = shipped_folder()
    found = [
        ShippedRecipe(path.stem, "/".join(path.relative_to(folder).parent.parts), path, _summary(path))
        for path in folder.rglob("*.yaml")
    ]
    return sorted(found, key=lambda recipe: (recipe.family, recipe.name))


def find_shipped(name: str) -> Path | None:
    """The file of the shipped recipe ``name``, also with its family (``paper/phi-2-orpo``); None if there is none."""
    found = (recipe.path for recipe in shipped_recipes() if name in (recipe.name, f"{recipe.family}/{recipe.name}"))
    return next(found, None)


def shipped_recipe(name: str) -> ShippedRecipe:
    """The shipped recipe ``name``. Raises UsageError with the closest name if there is none."""
    recipes = {recipe.name: recipe for recipe in shipped_recipes()}
    if name in recipes:
        return recipes[name]
    raise UsageError(
        f"{name}: there is no shipped recipe of this name.",
        remedy=did_you_mean(name, recipes, f"There are: {', '.join(recipes)}."),
    )


def _summary(path: Path) -> str:
    """The first line of the header comment, without the line for editors."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text = line.lstrip("# ").rstrip()
        if text and not line.startswith(EDITOR_COMMENT):
            return text
    return ""
