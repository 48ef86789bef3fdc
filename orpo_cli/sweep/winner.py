"""Recipe of the winner: it extends the recipe of the sweep, and has only the values that differ."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orpo_cli.control_characters import one_line
from orpo_cli.recipe.load import LoadedRecipe
from orpo_cli.recipe.source.nodes import MappingNode, Node, ScalarNode, SequenceNode, parse_path, plain_values
from orpo_cli.recipe.source.shipped_recipes import find_shipped
from orpo_cli.recipe.source.yaml_writer import EnvReference, yaml_lines
from orpo_cli.sweep.record import SweepDir

_NAMES_OF_PATHS = ("path", "model_name_or_path", "chat_template")


def winner_recipe(trial: LoadedRecipe, recipe: str, keys: Sequence[str], sweep: SweepDir, notes: Sequence[str]) -> str:
    """The text of winner.yaml. ``trial``: the recipe of the winner; ``keys``: those that differ from ``recipe``; ``notes``: comments."""
    base = _base_directory(trial)
    document: dict[str, Any] = {}
    for key in keys:
        _put(document, trial, key)
    lines = [f"# {one_line(line)}" for line in notes]
    lines += ["", *yaml_lines("extends", _extends(recipe, sweep.root)), ""]
    lines += yaml_lines("name", f"{trial.name}-winner")
    lines += yaml_lines("output_dir", f"{base}-winner")
    for key, value in document.items():
        if isinstance(value, dict):
            lines += ["", *_section(key, value, 0)]
        else:
            lines += ["", *yaml_lines(key, value)]
    return "\n".join(lines) + "\n"


def _section(key: str, values: dict[str, Any], depth: int) -> list[str]:
    lines = [f"{'  ' * depth}{key}:"]
    for name, value in values.items():
        if isinstance(value, dict) and value:
            lines += _section(name, value, depth + 1)
        else:
            lines += [f"{'  ' * (depth + 1)}{line}" for line in yaml_lines(name, value)]
    return lines


def _base_directory(trial: LoadedRecipe) -> str:
    """The run directory of the recipe, relative to the current directory if it is below: the paths of a project move together."""
    path = trial.output_dir
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _extends(recipe: str, root: Path) -> str:
    """The recipe as winner.yaml finds it: the name of a shipped one, or the path from the directory of the sweep."""
    path = Path(recipe)
    if not path.is_file() and find_shipped(recipe) is not None:
        return recipe
    return os.path.relpath(path.resolve(), root.resolve())


def _put(document: dict[str, Any], trial: LoadedRecipe, key: str) -> None:
    """Put the value of a key into nested sections. A list replaces the one of the recipe that is extended, so it is complete."""
    node: Node | None = trial.source_map.root
    section, path, done = document, list(parse_path(key)), ""
    for index, part in enumerate(path):
        if isinstance(node, MappingNode) and part == 0 and "0" not in node.nodes:
            continue  # a single source, which is index 0 of the sources
        done += f".{part}" if done else str(part)
        node = node.nodes.get(str(part)) if isinstance(node, MappingNode) else None
        if node is None or isinstance(node, ScalarNode | SequenceNode) or index == len(path) - 1:
            section[str(part)] = None if node is None else _value(trial, node, done)
            return
        section = section.setdefault(str(part), {})


def _value(trial: LoadedRecipe, node: Node, path: str) -> Any:
    """Plain values with references instead of secrets; local paths are absolute, because they are in another directory now."""
    if not trial.source_map.secrets.isdisjoint(node.origin.variables):
        return EnvReference(node.origin.written)
    if isinstance(node, MappingNode):
        return {key: _value(trial, inner, f"{path}.{key}") for key, inner in node.nodes.items()}
    if isinstance(node, SequenceNode):
        return [_value(trial, inner, f"{path}[{index}]") for index, inner in enumerate(node.nodes)]
    value = plain_values(node)
    if isinstance(value, str) and path.rsplit(".", 1)[-1] in _NAMES_OF_PATHS:
        return str(trial.local_path(path, value) or value)
    return value
