"""A recipe between text and schema: plain values that know where they were written.

Trees are never changed; putting one together makes new ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]  # ("dataset", "train", 0, "path")

COMMAND_LINE = "--set"


@dataclass(frozen=True)
class Origin:
    """Where a value was written: in a file, or on the command line, and what of the environment went into it."""

    file: str  # as shown in messages; COMMAND_LINE for an override
    line: int | None = None  # from 1; None for an override
    column: int | None = None  # from 1
    written: str | None = None  # the text with its ${references}, where variables went into it
    variables: tuple[str, ...] = ()  # those of them that are set

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True)
class ScalarNode:
    """A single value."""

    value: str | int | float | bool | None
    origin: Origin
    text: str | None = None  # of the environment, where it was read as another kind of value


@dataclass(frozen=True)
class SequenceNode:
    """A list."""

    nodes: tuple[Node, ...]
    origin: Origin


@dataclass(frozen=True)
class MappingNode:
    """A mapping. Its origin, like that of every node, is the place of its own key or list item."""

    nodes: Mapping[str, Node]
    origin: Origin


Node = ScalarNode | SequenceNode | MappingNode


def plain_values(node: Node) -> Any:
    """The values without their places, all new."""
    if isinstance(node, MappingNode):
        return {key: plain_values(inner) for key, inner in node.nodes.items()}
    if isinstance(node, SequenceNode):
        return [plain_values(inner) for inner in node.nodes]
    return node.value


def walk(node: Node, path: Path = ()) -> Iterator[tuple[Path, Node]]:
    """Every node below ``node`` with its path, a section before what is in it."""
    inner = (
        node.nodes.items()
        if isinstance(node, MappingNode)
        else enumerate(node.nodes)
        if isinstance(node, SequenceNode)
        else ()
    )
    for part, below in inner:
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
