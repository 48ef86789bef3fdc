"""Recipe tree: mappings, lists and scalars with the file and line where each was written.

The tree is the form of a recipe between its text and the schema. Nodes are immutable; merging creates new trees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]  # ("dataset", "train", 0, "path")

COMMAND_LINE = "--set"


@dataclass(frozen=True)
class Origin:
    """Origin of a value: file and line, or the command line, and the environment variables that it contains."""

    file: str  # the path in messages; COMMAND_LINE for an override
    line: int | None = None  # from 1; None for an override
    column: int | None = None  # from 1
    written: str | None = None  # the text with ${references}, if variables were inserted
    variables: tuple[str, ...] = ()  # the inserted variables that are set

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True)
class ScalarNode:
    """A single value."""

    value: str | int | float | bool | None
    origin: Origin
    text: str | None = None  # the text from the environment, if it was read as another type


@dataclass(frozen=True)
class SequenceNode:
    """A list."""

    nodes: tuple[Node, ...]
    origin: Origin


@dataclass(frozen=True)
class MappingNode:
    """A mapping. The origin of every node is the position of its key or list item."""

    nodes: Mapping[str, Node]
    origin: Origin


Node = ScalarNode | SequenceNode | MappingNode


def plain_values(node: Node) -> Any:
    """The values without origins, as new objects."""
    if isinstance(node, MappingNode):
        return {key: plain_values(inner) for key, inner in node.nodes.items()}
    if isinstance(node, SequenceNode):
        return [plain_values(inner) for inner in node.nodes]
    return node.value


def is_null(node: Node) -> bool:
    """Whether the value is null."""
    return isinstance(node, ScalarNode) and node.value is None


def walk(node: Node, path: Path = ()) -> Iterator[tuple[Path, Node]]:
    """All nodes below ``node`` with their paths, each section before its content."""
    if isinstance(node, ScalarNode):
        return
    for part, below in node.nodes.items() if isinstance(node, MappingNode) else enumerate(node.nodes):
        yield (*path, part), below
        yield from walk(below, (*path, part))


def format_path(path: Path) -> str:
    """``("dataset", "train", 0, "path")`` as ``dataset.train[0].path``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def parse_path(text: str) -> Path:
    """``dataset.train[0].path`` as ``("dataset", "train", 0, "path")``."""
    parts: list[str | int] = []
    for part in text.split("."):
        name, *indexes = part.replace("]", "").split("[")
        parts += [name] if name or not indexes else []
        parts += [int(index) if index.isdigit() else index for index in indexes]
    return tuple(parts)
