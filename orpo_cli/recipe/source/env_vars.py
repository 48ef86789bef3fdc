"""Environment variables in a recipe: ``${NAME}`` and ``${NAME:-default}`` are replaced by their values.

A value that is a single reference is then read as YAML, so ``${LR:-1e-5}`` is a number. ``$${`` is a literal ``${``. As in a shell,
the default also replaces an empty variable.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from orpo_cli.errors import Problem, RecipeError
from orpo_cli.recipe.source.nodes import MappingNode, Node, Path, ScalarNode, SequenceNode, format_path, walk
from orpo_cli.recipe.source.yaml_reader import read_value

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_REFERENCE = re.compile(rf"\$\$\{{|\$\{{(?P<name>{_NAME})(?::-(?P<default>(?:(?!\$\{{)[^}}])*))?\}}|\$\{{")
_SECRET = re.compile(r"(?i)(?:^|_)(?:token|key|password|passwd|secret|credentials?)$")


def looks_secret(name: str) -> bool:
    """Whether a variable or key with this name probably contains a secret."""
    return _SECRET.search(name) is not None


def expand_env_vars(tree: MappingNode, environment: Mapping[str, str]) -> MappingNode:
    """``tree`` with all references replaced. Raises RecipeError with all invalid references."""
    expansion = _Expansion(environment)
    nodes = {key: expansion.expand_node(node, (key,)) for key, node in tree.nodes.items()}
    if expansion.problems:
        raise RecipeError(expansion.problems)
    return MappingNode(nodes, tree.origin)


class _Expansion:
    """Replacement of references in a tree, with the problems found."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.problems: list[Problem] = []

    def expand_node(self, node: Node, path: Path) -> Node:
        if isinstance(node, MappingNode):
            return MappingNode(
                {key: self.expand_node(inner, (*path, key)) for key, inner in node.nodes.items()}, node.origin
            )
        if isinstance(node, SequenceNode):
            inner = enumerate(node.nodes)
            return SequenceNode(tuple(self.expand_node(each, (*path, index)) for index, each in inner), node.origin)
        if isinstance(node.value, str) and "${" in node.value:
            return self.expand_text(node, node.value, path)
        return node

    def expand_text(self, scalar: ScalarNode, text: str, path: Path) -> Node:
        variables: list[str] = []
        result = _REFERENCE.sub(lambda match: self.expand_reference(match, scalar, path, variables), text)
        origin = replace(scalar.origin, written=text, variables=tuple(variables))
        single = _REFERENCE.fullmatch(text)
        if single and single["name"]:
            node = read_value(result, origin)
            if isinstance(node, ScalarNode) and not isinstance(node.value, str):
                return replace(node, text=result)
            return node
        return ScalarNode(result, origin)

    def expand_reference(self, match: re.Match[str], scalar: ScalarNode, path: Path, variables: list[str]) -> str:
        name, default = match["name"], match["default"]
        if match[0] == "$${":
            return "${"
        if name is None:
            self.add_problem(
                "env-reference", "`${` does not start a valid reference.", scalar, path,
                "Write ${NAME} or ${NAME:-default}, or $${ for the characters ${.",
            )  # fmt: skip
            return ""
        value = self.environment.get(name)
        if value is None and default is None:
            remedy = f"Set it, or write a default: ${{{name}:-…}}."
            self.add_problem("env-variable-unset", f"the environment variable {name} is not set.", scalar, path, remedy)
            return ""
        if default is not None and not value:
            return default
        variables.append(name)
        return value or ""

    def add_problem(self, code: str, message: str, scalar: ScalarNode, path: Path, remedy: str) -> None:
        origin = scalar.origin
        found = Problem(code, message, format_path(path), origin.file, origin.line, origin.column, remedy)
        if found not in self.problems[-1:]:  # a value may contain the same mistake many times
            self.problems.append(found)


def secret_variables(tree: MappingNode) -> Iterator[str]:
    """The variables in ``tree`` whose values are secrets, according to their names or to the keys of the values."""
    for path, node in walk(tree):
        key = next(part for part in reversed(path) if isinstance(part, str))
        yield from (name for name in node.origin.variables if looks_secret(name) or looks_secret(key))
