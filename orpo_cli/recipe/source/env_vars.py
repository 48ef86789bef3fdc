"""Environment variables in a recipe: ``${NAME}`` and ``${NAME:-default}`` are replaced by their values.

A value that is a single reference is then read as YAML, so ``${LR:-1e-5}`` is a number. ``$${`` is a literal ``${``. As in a shell,
the default also replaces an empty variable.

Secrets are inserted only in settings that are meant for them. Elsewhere the value would be sent to the server of an address, or
written to names and files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from orpo_cli.errors import Problem, RecipeError
from orpo_cli.recipe.source.nodes import MappingNode, Node, Path, ScalarNode, SequenceNode, format_path, walk
from orpo_cli.recipe.source.yaml_reader import read_value
from orpo_cli.secret_patterns import looks_secret, secret_kind

# The last two are refused with a reason of their own.
SECRET_SETTINGS = (("model", "token"), ("training", "hub_token"), ("training", "push_to_hub_token"))
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_REFERENCE = re.compile(rf"\$\$\{{|\$\{{(?P<name>{_NAME})(?::-(?P<default>(?:(?!\$\{{)[^}}])*))?\}}|\$\{{")


def without_references(text: str) -> str:
    """``text`` as it is written in the recipe: with the defaults of references, without the values of variables."""
    return _REFERENCE.sub(lambda match: match["default"] or "", text)


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
        if path not in SECRET_SETTINGS:
            self.refuse_secrets(scalar, text, result, path)
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
        if value is None and default is None and (path in SECRET_SETTINGS or not looks_secret(name)):
            remedy = f"Set it, or write a default: ${{{name}:-…}}."
            self.add_problem("env-variable-unset", f"the environment variable {name} is not set.", scalar, path, remedy)
            return ""
        if default is not None and not value:
            return default
        variables.append(name)
        return value or ""

    def refuse_secrets(self, scalar: ScalarNode, text: str, result: str, path: Path) -> None:
        """Add a problem if a variable in ``text``, set or not, is a secret by its name or value, or if it completes a secret."""
        names = list(dict.fromkeys(match["name"] for match in _REFERENCE.finditer(text) if match["name"]))
        for name in names:
            kind = secret_kind(self.environment.get(name, ""))
            if kind is not None or looks_secret(name):
                what = f"the environment variable {name} {f'contains {kind}' if kind else 'is a secret, by its name'}"
                break
        else:
            kind = secret_kind(result)
            if kind is None or secret_kind(without_references(text)) is not None:  # the latter is a problem of its own
                return
            what = f"with the value of {' and '.join(names)}, it contains {kind}"
        message = f"{what}, but this setting is sent to servers, shown or written to files."
        self.add_problem("secret-variable", message, scalar, path, _remedy(path))

    def add_problem(self, code: str, message: str, scalar: ScalarNode, path: Path, remedy: str) -> None:
        origin = scalar.origin
        found = Problem(code, message, format_path(path), origin.file, origin.line, origin.column, remedy)
        if found not in self.problems[-1:]:  # a value may contain the same mistake many times
            self.problems.append(found)


def _remedy(path: Path) -> str:
    """What to do instead of inserting a secret: the libraries find credentials themselves."""
    if path[0] == "dataset":
        instead = "s3fs, gcsfs, adlfs and the hub read credentials from their own environment variables or files"
    else:
        instead = "the libraries read HF_TOKEN, WANDB_API_KEY and similar variables themselves"
    return f"Remove it: {instead}. If it is not a secret, rename the variable."


def secret_variables(tree: MappingNode) -> Iterator[str]:
    """The variables in ``tree`` whose values are secrets: those in settings for secrets."""
    for path, node in walk(tree):
        if path in SECRET_SETTINGS:
            yield from node.origin.variables
