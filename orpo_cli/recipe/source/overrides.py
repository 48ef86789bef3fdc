"""Overrides: ``--set section.key=value`` replaces one value of a recipe on the command line."""

from __future__ import annotations

from orpo_cli.errors import UsageError
from orpo_cli.recipe.source.nodes import (
    COMMAND_LINE,
    MappingNode,
    Node,
    Origin,
    Path,
    SequenceNode,
    format_path,
    is_null,
    parse_path,
)
from orpo_cli.recipe.source.yaml_reader import read_value

ORIGIN = Origin(COMMAND_LINE)
SOURCE_LISTS = (("dataset", "train"), ("dataset", "eval"))  # lists of sources, which may be written as a single source


def apply_overrides(tree: MappingNode, override: str) -> MappingNode:
    """``tree`` with the value that ``override`` (``dataset.train.0.path=x``) sets; null removes a value.

    Missing sections are created. Raises UsageError if the path does not exist.
    """
    name, equals, text = override.partition("=")
    path = parse_path(name.strip())
    if not equals or not path or not all(part != "" for part in path):
        raise UsageError(
            f"{COMMAND_LINE} {override}: must be of the form section.key=value.", remedy="Quote it for the shell."
        )
    if path[0] == "extends":
        raise UsageError(
            f"{COMMAND_LINE} {override}: extends cannot be overridden.",
            remedy="Write a recipe that extends the other one.",
        )
    setting = _Override(override, path, read_value(text.strip(), ORIGIN))
    result = setting.set_below(tree, ())
    assert isinstance(result, MappingNode), "the root is a mapping"
    return result


class _Override:
    """One override, which is applied from the root down along its path."""

    def __init__(self, override: str, path: Path, value: Node) -> None:
        self.override, self.path, self.value = override, path, value

    def set_below(self, node: Node | None, done: Path) -> Node | None:
        """The node at ``done`` after the value is set below it; None if it is removed."""
        rest = self.path[len(done) :]
        if not rest:
            return None if is_null(self.value) and node is not None else self.value
        part = rest[0]
        if node is None or is_null(node):
            node = SequenceNode((), ORIGIN) if _index(part) is not None else MappingNode({}, ORIGIN)
        if isinstance(node, MappingNode) and done in SOURCE_LISTS and _index(part) == 0 and part not in node.nodes:
            return self.set_below(node, (*done, part))  # index 0 of a single source is the source
        if isinstance(node, MappingNode):
            return self.set_in_mapping(node, done, str(part))
        if isinstance(node, SequenceNode):
            return self.set_in_sequence(node, done, _index(part))
        raise self.error(f"{format_path(done)} is a single value, not a section.")

    def set_in_mapping(self, node: MappingNode, done: Path, key: str) -> MappingNode:
        inner = self.set_below(node.nodes.get(key), (*done, key))
        if inner is None:
            return MappingNode({name: each for name, each in node.nodes.items() if name != key}, node.origin)
        return MappingNode({**node.nodes, key: inner}, node.origin)

    def set_in_sequence(self, node: SequenceNode, done: Path, index: int | None) -> SequenceNode:
        count = len(node.nodes)
        if index is None or index > count or (index == count and node.origin != ORIGIN):
            given = f"use an index from 0 to {count - 1}" if count > 1 else "its only index is 0"
            raise self.error(f"{format_path(done)} is a list of {count}; {given}.")
        inner = self.set_below(node.nodes[index] if index < count else None, (*done, self.path[len(done)]))
        kept = () if inner is None else (inner,)
        return SequenceNode((*node.nodes[:index], *kept, *node.nodes[index + 1 :]), node.origin)

    def error(self, message: str) -> UsageError:
        return UsageError(f"{COMMAND_LINE} {self.override}: {message}")


def _index(part: str | int) -> int | None:
    return part if isinstance(part, int) else int(part) if part.isdecimal() and part.isascii() else None
