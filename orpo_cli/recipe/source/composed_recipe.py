"""A recipe with all that it extends, as one file: what a run directory keeps beside the recipe as it was written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from orpo_cli.recipe.load import LoadedRecipe
from orpo_cli.recipe.source.nodes import MappingNode, Node, Path, SequenceNode, format_path, walk
from orpo_cli.recipe.source.yaml_writer import EnvReference, yaml_lines

HEAD = """\
# {name} as one recipe: with what it extends, and with the values of the command line and of the environment in place.
# Local paths are absolute; secrets stay in the environment. Beside each value stands where it was written.

"""
_PATH_KEYS = re.compile(r"model\.model_name_or_path|dataset\.(train|eval)(\[\d+\])?\.path")


def compose_recipe_text(loaded: LoadedRecipe) -> str | None:
    """The whole recipe with the place of every value; None where it is whole in its own file."""
    nodes = [node for _, node in walk(loaded.source_map.root)]
    if len(loaded.files) == 1 and all(node.origin.written is None for node in nodes):
        return None
    lines = list(_Lines(loaded).of(loaded.source_map.root, (), 0))
    if loaded.recipe.name is None:
        lines.insert(0, f"{yaml_lines('name', loaded.name)[0]} # that of the file")
    return HEAD.format(name=loaded.file) + "\n".join(lines) + "\n"


class _Lines:
    def __init__(self, loaded: LoadedRecipe) -> None:
        self.loaded = loaded

    def of(self, node: MappingNode, path: Path, depth: int) -> Iterator[str]:
        """The lines of a mapping."""
        for key, inner in node.nodes.items():
            if (*path, key) != ("extends",):
                yield from self.entry(key, inner, (*path, key), depth)

    def entry(self, key: str, node: Node, path: Path, depth: int) -> Iterator[str]:
        indent = "  " * depth
        if isinstance(node, MappingNode) and node.nodes and not self.is_secret(node):
            yield f"{indent}{key}:"
            yield from self.of(node, path, depth + 1)
        elif isinstance(node, SequenceNode) and path[0] == "dataset" and not self.is_secret(node):  # sources
            yield f"{indent}{key}:"
            for index, item in enumerate(node.nodes):
                yield from self.item(item, (*path, index), depth + 1)
        else:
            yield from self.value(key, node, path, indent)

    def item(self, node: Node, path: Path, depth: int) -> Iterator[str]:
        """A source in a list: its first line has the dash."""
        assert isinstance(node, MappingNode), "the schema lets no other source through"
        for number, line in enumerate(self.of(node, path, 0)):
            yield "  " * depth + ("- " if number == 0 else "  ") + line

    def value(self, key: str, node: Node, path: Path, indent: str) -> Iterator[str]:
        lines = [indent + line for line in yaml_lines(key, self.shown(node, path))]
        place = str(node.origin)
        if node.origin.written is not None and not self.is_secret(node):
            place += f", {node.origin.written}"
        if len(lines) == 1:
            yield f"{lines[0]} # {place}"
        else:
            yield f"{indent}# {place}"
            yield from lines

    def shown(self, node: Node, path: Path) -> Any:
        """Plain values, with local paths absolute, and with references for secrets."""
        if self.is_secret(node):
            return EnvReference(node.origin.written)
        if isinstance(node, MappingNode):
            return {key: self.shown(inner, (*path, key)) for key, inner in node.nodes.items()}
        if isinstance(node, SequenceNode):
            return [self.shown(inner, (*path, index)) for index, inner in enumerate(node.nodes)]
        if isinstance(node.value, str) and _PATH_KEYS.fullmatch(format_path(path)):
            return str(self.loaded.local_path(format_path(path), node.value) or node.value)
        return node.value

    def is_secret(self, node: Node) -> bool:
        return not self.loaded.source_map.secrets.isdisjoint(node.origin.variables)
