"""One tree from a recipe and those that it extends.

A mapping is merged with the parent's key by key, anything else replaces what the parent says, and null takes it away. The
child wins. Every value keeps the file and line where it was written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from orpo_cli.errors import Problem, RecipeError, UsageError
from orpo_cli.recipe.source.env_vars import expand_env_vars, secret_variables
from orpo_cli.recipe.source.nodes import MappingNode, Node, Path, ScalarNode
from orpo_cli.recipe.source.recipe_files import RecipeFile, read_parent
from orpo_cli.recipe.source.yaml_reader import read_yaml
from orpo_cli.secret_values import mask_secrets, register_secrets

MAX_FILES = 16
EVAL_PATH = ("dataset", "eval")


def resolve_extends(file: RecipeFile) -> tuple[MappingNode, tuple[RecipeFile, ...]]:
    """The tree of ``file`` with all that it extends, and the files, ``file`` first. Raises RecipeError."""
    files = [file]
    trees = [read_yaml(file.text, file.shown)]
    while (named := _extends_node(trees[-1])) is not None:
        parent = _read_parent(named, files)
        files.append(parent)
        trees.append(read_yaml(parent.text, parent.shown))
    tree = trees.pop()
    while trees:
        tree = merge_trees(tree, trees.pop())
    return tree, tuple(files)


def merge_trees(parent: MappingNode, child: MappingNode, path: Path = ()) -> MappingNode:
    """Both mappings in one; see the module."""
    nodes: dict[str, Node] = {key: node for key, node in parent.nodes.items() if (*path, key) != ("extends",)}
    for key, node in child.nodes.items():
        below = (*path, key)
        inherited = nodes.get(key)
        if (
            isinstance(node, MappingNode)
            and isinstance(inherited, MappingNode)
            and not _eval_kind_changes(below, inherited, node)
        ):
            nodes[key] = merge_trees(inherited, node, below)
        elif isinstance(node, ScalarNode) and node.value is None and key in nodes:
            del nodes[key]
        else:
            nodes[key] = node
    return MappingNode(nodes, child.origin)


def _eval_kind_changes(path: Path, parent: MappingNode, child: MappingNode) -> bool:
    """`dataset.eval` is a source or `{test_size: …}`: keys of one make no sense beside those of the other."""
    if path != EVAL_PATH:
        return False
    kinds = [{key == "test_size" for key, node in each.nodes.items() if not _is_null(node)} for each in (parent, child)]
    return all(kinds) and not kinds[0] & kinds[1]


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.value is None


def _extends_node(tree: MappingNode) -> ScalarNode | None:
    if "extends" not in tree.nodes or _is_null(tree.nodes["extends"]):
        return None
    node = expand_env_vars(MappingNode({"extends": tree.nodes["extends"]}, tree.origin), os.environ).nodes["extends"]
    register_secrets(secret_variables(node))
    if isinstance(node, ScalarNode) and isinstance(node.value, str) and node.value:
        return node
    raise _error("invalid-value", "must be the path of a recipe or a shipped recipe's name.", node)


def _read_parent(named: ScalarNode, files: list[RecipeFile]) -> RecipeFile:
    try:
        parent = read_parent(str(named.value), files[-1])
    except RecipeError:
        raise
    except UsageError as error:
        raise _error("extends-not-found", error.message, named, error.remedy) from None
    known: Mapping[object, int] = {each.identity(): number for number, each in enumerate(files)}
    if parent.identity() in known:
        circle = [*(each.shown for each in files[known[parent.identity()] :]), parent.shown]
        raise _error("extends-cycle", f"recipes extend each other: {' → '.join(circle)}.", named, "Break the circle.")
    if len(files) == MAX_FILES:
        raise _error("extends-too-deep", f"recipes extend each other more than {MAX_FILES} deep.", named)
    return parent


def _error(code: str, message: str, node: Node, remedy: str | None = None) -> RecipeError:
    place = node.origin
    return RecipeError([Problem(code, mask_secrets(message), "extends", place.file, place.line, place.column, remedy)])
