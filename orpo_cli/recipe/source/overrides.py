"""``--set section.key=value``: one value of the recipe, given on the command line."""

from __future__ import annotations

from orpo_cli.errors import UsageError
from orpo_cli.recipe.source.nodes import (
    COMMAND_LINE,
    MappingNode,
    Node,
    Origin,
    Path,
    ScalarNode,
    SequenceNode,
    format_path,
    parse_path,
)
from orpo_cli.recipe.source.yaml_reader import read_value

ORIGIN = Origin(COMMAND_LINE)
SOURCE_LISTS = (("dataset", "train"), ("dataset", "eval"))  # a source stands for the list of it alone


def apply_overrides(tree: MappingNode, override: str) -> MappingNode:
    """``tree`` with the value that ``override`` (``dataset.train.0.path=x``) sets; null takes a value away.

    Sections that are not there are made. Raises UsageError where the path leads nowhere.
    """
    name, equals, text = override.partition("=")
    path = parse_path(name.strip())
    if not equals or not path or not all(part != "" for part in path):
        raise UsageError(
            f"{COMMAND_LINE} {override}: must be of the form section.key=value.", remedy="Quote it for the shell."
        )
    if path[0] == "extends":
        raise UsageError(
            f"{COMMAND_LINE} {override}: what a recipe extends stands in its file.",
            remedy="Write a recipe that extends the other one; two lines are enough.",
        )
    set_ = _Override(override, path, read_value(text.strip(), ORIGIN))
    result = set_.below(tree, ())
    assert isinstance(result, MappingNode), "the root stays a mapping"
    return result


class _Override:
    """One override on its way down the tree."""

    def __init__(self, override: str, path: Path, value: Node) -> None:
        self.override, self.path, self.value = override, path, value

    def below(self, node: Node | None, done: Path) -> Node | None:
        """What stands at ``done`` once the value is set; None where it is taken away."""
        rest = self.path[len(done) :]
        if not rest:
            taken_away = isinstance(self.value, ScalarNode) and self.value.value is None and node is not None
            return None if taken_away else self.value
        part = rest[0]
        if node is None or (isinstance(node, ScalarNode) and node.value is None):
            node = SequenceNode((), ORIGIN) if _index(part) is not None else MappingNode({}, ORIGIN)
        if isinstance(node, MappingNode) and done in SOURCE_LISTS and _index(part) == 0 and part not in node.nodes:
            return self.inside_one(node, done, part)
        if isinstance(node, MappingNode):
            return self.in_keys(node, done, str(part))
        if isinstance(node, SequenceNode):
            return self.in_items(node, done, _index(part))
        raise self.error(f"{format_path(done)} is a single value, not a section.")

    def in_keys(self, node: MappingNode, done: Path, key: str) -> MappingNode:
        inner = self.below(node.nodes.get(key), (*done, key))
        if inner is None:
            return MappingNode({name: each for name, each in node.nodes.items() if name != key}, node.origin)
        return MappingNode({**node.nodes, key: inner}, node.origin)

    def in_items(self, node: SequenceNode, done: Path, index: int | None) -> SequenceNode:
        count = len(node.nodes)
        if index is None or index > count or (index == count and node.origin != ORIGIN):
            given = f"give an index from 0 to {count - 1}" if count > 1 else "its index is 0"
            raise self.error(f"{format_path(done)} is a list of {count}; {given}.")
        inner = self.below(node.nodes[index] if index < count else None, (*done, self.path[len(done)]))
        kept = () if inner is None else (inner,)
        return SequenceNode((*node.nodes[:index], *kept, *node.nodes[index + 1 :]), node.origin)

    def inside_one(self, node: MappingNode, done: Path, part: str | int) -> Node | None:
        """Index 0 of a source that stands alone is the source."""
        return self.below(node, (*done, part))

    def error(self, message: str) -> UsageError:
        return UsageError(f"{COMMAND_LINE} {self.override}: {message}")


def _index(part: str | int) -> int | None:
    return part if isinstance(part, int) else int(part) if part.isdecimal() and part.isascii() else None
