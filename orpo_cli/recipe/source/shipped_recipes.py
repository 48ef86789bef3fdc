"""The recipes that come with orpo-cli: where they lie, what they are called, what each says it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import orpo_cli
from orpo_cli.errors import MachineError, UsageError
from orpo_cli.recipe.did_you_mean import did_you_mean

FOR_EDITORS = "# yaml-language-server:"


@dataclass(frozen=True)
class ShippedRecipe:
    """One shipped recipe."""

    name: str  # its file's name without .yaml, which no other has: llama3-8b-qlora
    family: str  # the folder it lies in, below that of all recipes: llama; empty for the quickstart
    path: Path
    summary: str  # first line of the header comment

    def text(self) -> str:
        """The file as it is."""
        return self.path.read_text(encoding="utf-8")

    def text_to_copy(self) -> str:
        """The text for another place, where the line that tells editors of the schema beside it would lead nowhere."""
        return "".join(line for line in self.text().splitlines(keepends=True) if not line.startswith(FOR_EDITORS))


def shipped_folder() -> Path:
    """The folder of recipes: inside the package where a wheel was installed, beside it in a checkout.

    Raises MachineError where an installation has neither.
    """
    package = Path(orpo_cli.__file__).parent  # not importlib.resources, which takes longer to import than all of this
    for folder in (package / "_recipes", package.parent / "recipes"):
        if folder.is_dir():
            return folder
    raise MachineError(
        f"the shipped recipes are missing from this installation of orpo-cli ({package}).",
        remedy="Install orpo-cli again, from a wheel or as a checkout.",
    )


def shipped_recipes() -> list[ShippedRecipe]:
    """Every shipped recipe, by family and name."""
    folder = shipped_folder()
    found = [
        ShippedRecipe(path.stem, "/".join(path.relative_to(folder).parent.parts), path, _summary(path))
        for path in folder.rglob("*.yaml")
    ]
    return sorted(found, key=lambda recipe: (recipe.family, recipe.name))


def find_shipped(name: str) -> Path | None:
    """The file of the shipped recipe ``name``, or None where none is called so."""
    return next((recipe.path for recipe in shipped_recipes() if recipe.name == name), None)


def shipped_recipe(name: str) -> ShippedRecipe:
    """The shipped recipe ``name``. Raises UsageError, with the nearest name, where none is called so."""
    recipes = {recipe.name: recipe for recipe in shipped_recipes()}
    if name in recipes:
        return recipes[name]
    raise UsageError(
        f"{name}: there is no shipped recipe of this name.",
        remedy=did_you_mean(name, recipes, f"There are: {', '.join(recipes)}."),
    )


def _summary(path: Path) -> str:
    """The first line of the comment that opens the file, leaving out the line for editors."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text = line.lstrip("# ").rstrip()
        if text and not line.startswith(FOR_EDITORS):
            return text
    return ""
