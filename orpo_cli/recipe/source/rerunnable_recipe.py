"""Re-runnable recipe: a recipe, the recipes that it extends and the overrides as one file, which trains the same from any directory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from orpo_cli.control_characters import one_line
from orpo_cli.recipe.load import LoadedRecipe
from orpo_cli.recipe.schema import TEMPLATE_SUFFIXES
from orpo_cli.recipe.source.nodes import (
    COMMAND_LINE,
    MappingNode,
    Node,
    Path,
    SequenceNode,
    format_path,
    parse_path,
)
from orpo_cli.recipe.source.recipe_files import PYTHON_RECIPE
from orpo_cli.recipe.source.yaml_writer import EnvReference, yaml_lines

HEADER = """\
# {name} as one recipe, with all values of the recipes that it extends, the command line and the environment.
# Local paths are absolute; secrets stay in the environment. A comment after a value is its origin.
# It has no output_dir. Train it again: orpo train THIS_FILE --set output_dir=DIR

"""
_PATH_KEYS = re.compile(r"model\.model_name_or_path|dataset\.(train|eval)(\[\d+\])?\.path|launch\.deepspeed_config")
_TEMPLATE_KEY = "model.chat_template"
LEFT_OUT = (("extends",), ("output_dir",))


def rerunnable_recipe(loaded: LoadedRecipe) -> str:
    """The text of a recipe that trains the same, with the origin of every value; without ``output_dir``, where a run exists already."""
    lines = list(_Lines(loaded).mapping_lines(loaded.source_map.root, (), 0))
    if loaded.recipe.name is None:
        lines.insert(0, f"{_name_line(loaded.name)} # the name of the file")
    name = "A recipe of a Python program" if loaded.file == PYTHON_RECIPE else one_line(loaded.file)
    return HEADER.format(name=name) + "\n".join(lines) + "\n"


def _name_line(name: str) -> str:
    lines = yaml_lines("name", name)
    return lines[0] if len(lines) == 1 else f"name: {json.dumps(name.replace('${', '$${'))}"


def overridden_values(loaded: LoadedRecipe) -> dict[str, Any]:
    """The values of the overrides by dotted path, with references instead of secrets; None for a value that was removed."""
    paths = [parse_path(override.partition("=")[0].strip()) for override in loaded.overrides]
    nodes = [(path, loaded.source_map.find_node(format_path(path))) for path in paths]
    return {format_path(path): None if node is None else _Lines(loaded).printable(node, path) for path, node in nodes}


class _Lines:
    """Lines of a re-runnable recipe."""

    def __init__(self, loaded: LoadedRecipe) -> None:
        self.loaded = loaded
        self.files_of_program = (PYTHON_RECIPE, COMMAND_LINE) if loaded.file == PYTHON_RECIPE else ()

    def mapping_lines(self, node: MappingNode, path: Path, depth: int) -> Iterator[str]:
        """The lines of a mapping."""
        for key, inner in node.nodes.items():
            if (*path, key) not in LEFT_OUT:
                yield from self.entry_lines(key, inner, (*path, key), depth)

    def entry_lines(self, key: str, node: Node, path: Path, depth: int) -> Iterator[str]:
        indent = "  " * depth
        if isinstance(node, MappingNode) and node.nodes and not self.is_secret(node):
            yield f"{indent}{key}:"
            yield from self.mapping_lines(node, path, depth + 1)
        elif isinstance(node, SequenceNode) and path[0] == "dataset" and not self.is_secret(node):  # sources
            yield f"{indent}{key}:"
            for index, item in enumerate(node.nodes):
                yield from self.source_lines(item, (*path, index), depth + 1)
        else:
            yield from self.value_lines(key, node, path, indent)

    def source_lines(self, node: Node, path: Path, depth: int) -> Iterator[str]:
        """Lines of a source in a list; the first line has the dash."""
        assert isinstance(node, MappingNode), "the schema allows only mappings as sources"
        for number, line in enumerate(self.mapping_lines(node, path, 0)):
            yield "  " * depth + ("- " if number == 0 else "  ") + line

    def value_lines(self, key: str, node: Node, path: Path, indent: str) -> Iterator[str]:
        lines = [indent + line for line in yaml_lines(key, self.printable(node, path))]
        of_program = node.origin.file in self.files_of_program
        places = [] if of_program else [one_line(str(node.origin))]
        if node.origin.written is not None and not self.is_secret(node):
            places.append(one_line(node.origin.written))
        origin = ", ".join(places)
        if not origin:
            yield from lines
        elif len(lines) == 1:
            yield f"{lines[0]} # {origin}"
        else:
            yield f"{indent}# {origin}"
            yield from lines

    def printable(self, node: Node, path: Path) -> Any:
        """Plain values with absolute local paths, and with references instead of secrets."""
        if self.is_secret(node):
            return EnvReference(node.origin.written)
        if isinstance(node, MappingNode):
            return {key: self.printable(inner, (*path, key)) for key, inner in node.nodes.items()}
        if isinstance(node, SequenceNode):
            return [self.printable(inner, (*path, index)) for index, inner in enumerate(node.nodes)]
        name, value = format_path(path), node.value
        names_file = _PATH_KEYS.fullmatch(name) or (
            name == _TEMPLATE_KEY and str(value).lower().endswith(TEMPLATE_SUFFIXES)
        )
        if isinstance(value, str) and names_file:
            return str(self.loaded.local_path(name, value) or value)
        return value

    def is_secret(self, node: Node) -> bool:
        return not self.loaded.source_map.secrets.isdisjoint(node.origin.variables)
