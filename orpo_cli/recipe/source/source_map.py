"""Source map: the origin (file, line, command line or environment) of every value of a recipe, by dotted path."""

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
    SequenceNode,
    format_path,
    is_null,
    walk,
)
from orpo_cli.recipe.source.overrides import SOURCE_LISTS
from orpo_cli.recipe.source.recipe_files import PYTHON_RECIPE
from orpo_cli.secret_values import mask_secrets

OriginKind = Literal["recipe", "override", "environment", "default"]


class SourceMap:
    """Source map of one recipe.

    ``written_paths`` maps the current path of a migrated value to the path where it was written. ``secrets`` are environment
    variables in values that must not be shown. ``of_python``: a Python program gives the overrides.
    """

    def __init__(
        self, root: MappingNode, written_paths: Mapping[str, str], secrets: Set[str], *, of_python: bool = False
    ) -> None:
        self.root, self.written_paths, self.secrets, self.of_python = root, written_paths, secrets, of_python
        self.nodes = {format_path(path): node for path, node in walk(root)}

    def find_node(self, path: str) -> Node | None:
        """The node at ``path``; None for a missing value or null."""
        node = next((self.nodes[each] for each in self._spellings(path) if each in self.nodes), None)
        return None if node is None or is_null(node) else node

    def nearest_node(self, path: str) -> Node:
        """The node at ``path``, or else the innermost section that contains the path."""
        while path:
            for each in self._spellings(path):
                if each in self.nodes:
                    return self.nodes[each]
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.root

    def origin(self, path: str) -> Origin | None:
        """The origin of the value at ``path``; None for a default."""
        node = self.find_node(path)
        return None if node is None else node.origin

    def origin_kind(self, path: str) -> OriginKind:
        """The kind of origin of the value at ``path``."""
        origin = self.origin(path)
        if origin is None:
            return "default"
        return "override" if origin.file == COMMAND_LINE else "environment" if origin.variables else "recipe"

    def locate_problem(self, problem: Problem) -> Problem:
        """``problem`` with file, line and column (None for a value of a Python program), and without secrets."""
        origin = self.nearest_node(problem.path).origin
        message, remedy = mask_secrets([problem.message, problem.remedy])
        if self.of_python and origin.file in (PYTHON_RECIPE, COMMAND_LINE):
            return replace(problem, message=message, remedy=remedy)
        return replace(
            problem, file=origin.file, line=origin.line, column=origin.column, message=message, remedy=remedy
        )  # fmt: skip

    def is_secret(self, path: str) -> bool:
        """Whether the value at ``path`` is a secret."""
        origin = self.origin(path)
        return origin is not None and not self.secrets.isdisjoint(origin.variables)

    def _spellings(self, path: str) -> Iterator[str]:
        """The path where ``path`` was written, with and without the index of a single source."""
        path = self.written_paths.get(path, path)
        yield path
        for part in map(format_path, SOURCE_LISTS):
            if path == f"{part}[0]" or path.startswith(f"{part}[0]."):
                yield part + path.removeprefix(f"{part}[0]")
            elif path.startswith(f"{part}.") and isinstance(self.nodes.get(part), SequenceNode):
                yield f"{part}[0]" + path.removeprefix(part)
