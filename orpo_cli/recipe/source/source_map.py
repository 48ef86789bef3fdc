"""Where the values of a recipe were written, by their dotted names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from typing import Literal

from orpo_cli.errors import Problem
from orpo_cli.recipe.source.nodes import (
    COMMAND_LINE,
    MappingNode,
    Node,
    Origin,
    ScalarNode,
    SequenceNode,
    format_path,
    walk,
)
from orpo_cli.recipe.source.overrides import SOURCE_LISTS
from orpo_cli.secret_values import mask_secrets

OriginKind = Literal["recipe", "override", "environment", "default"]


class SourceMap:
    """Finds values.

    ``moved`` maps a name that a value is read by to the one it was written by; ``secrets`` are environment variables that
    went into values and must not be shown.
    """

    def __init__(self, root: MappingNode, moved: Mapping[str, str], secrets: Set[str]) -> None:
        self.root, self.written_paths, self.secrets = root, moved, secrets
        self.nodes = {format_path(path): node for path, node in walk(root)}

    def find(self, path: str) -> Node | None:
        """What was written at ``path``; None where nothing was, or null."""
        node = next((self.nodes[each] for each in self._spellings(path) if each in self.nodes), None)
        return None if isinstance(node, ScalarNode) and node.value is None else node

    def nearest_node(self, path: str) -> Node:
        """What was written at ``path``, or else the nearest section around it."""
        while path:
            for each in self._spellings(path):
                if each in self.nodes:
                    return self.nodes[each]
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.root

    def origin(self, path: str) -> Origin | None:
        """Where the value at ``path`` was written; None for a default."""
        node = self.find(path)
        return None if node is None else node.origin

    def origin_kind(self, path: str) -> OriginKind:
        """Where the value at ``path`` came from."""
        origin = self.origin(path)
        if origin is None:
            return "default"
        return "override" if origin.file == COMMAND_LINE else "environment" if origin.variables else "recipe"

    def locate_problem(self, problem: Problem) -> Problem:
        """``problem`` with file, line and column, and without secrets."""
        place = self.nearest_node(problem.path).origin
        message, remedy = mask_secrets([problem.message, problem.remedy])
        return replace(
            problem, file=place.file, line=place.line, column=place.column, message=message, remedy=remedy
        )  # fmt: skip

    def is_secret(self, path: str) -> bool:
        """Whether the value at ``path`` must not be shown."""
        origin = self.origin(path)
        return origin is not None and not self.secrets.isdisjoint(origin.variables)

    def _spellings(self, path: str) -> Iterator[str]:
        """The name that ``path`` was written by, with and without the index of a source that stands alone."""
        path = self.written_paths.get(path, path)
        yield path
        for part in map(format_path, SOURCE_LISTS):
            if path == f"{part}[0]" or path.startswith(f"{part}[0]."):
                yield part + path.removeprefix(f"{part}[0]")
            elif path.startswith(f"{part}.") and isinstance(self.nodes.get(part), SequenceNode):
                yield f"{part}[0]" + path.removeprefix(part)
