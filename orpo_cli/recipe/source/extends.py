"""Recipe inheritance: the trees of a recipe and of the recipes that it extends are merged into one tree.

Mappings are merged key by key, other values replace the value of the parent, and null removes it. Every value keeps its file and
line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from orpo_cli.errors import Problem, RecipeError, UsageError
from orpo_cli.recipe.source.env_vars import expand_env_vars, secret_variables
from orpo_cli.recipe.source.nodes import MappingNode, Node, Path, ScalarNode, is_null
from orpo_cli.recipe.source.recipe_files import RecipeFile, read_parent
from orpo_cli.recipe.source.yaml_reader import read_yaml
from orpo_cli.secret_values import mask_secrets, register_secrets

MAX_FILES = 16
EVAL_PATH = ("dataset", "eval")


def resolve_extends(file: RecipeFile) -> tuple[MappingNode, tuple[RecipeFile, ...]]:
    """The merged tree of ``file`` and its parents, and their files, ``file`` first. Raises RecipeError."""
    files = [file]
    trees = [read_yaml(file.text, file.display_name)]
    while (named := _extends_node(trees[-1])) is not None:
        parent = _read_parent(named, files)
        files.append(parent)
        trees.append(_tree_of_parent(parent))
    tree = trees.pop()
    while trees:
        tree = merge_trees(tree, trees.pop())
    return tree, tuple(files)


def merge_trees(parent: MappingNode, child: MappingNode, path: Path = ()) -> MappingNode:
    """The merged mappings, in which the child overrides the parent."""
    nodes: dict[str, Node] = {key: node for key, node in parent.nodes.items() if (*path, key) != ("extends",)}
    for key, node in child.nodes.items():
        key_path = (*path, key)
        inherited = nodes.get(key)
        if (
            isinstance(node, MappingNode)
            and isinstance(inherited, MappingNode)
            and not _eval_kind_changes(key_path, inherited, node)
        ):
            nodes[key] = merge_trees(inherited, node, key_path)
        elif is_null(node) and key in nodes:
            del nodes[key]
        else:
            nodes[key] = node
    return MappingNode(nodes, child.origin)


def _eval_kind_changes(path: Path, parent: MappingNode, child: MappingNode) -> bool:
    """Whether `dataset.eval` changes from a source to `{test_size: …}` or vice versa; their keys cannot be merged."""
    if path != EVAL_PATH:
        return False
    kinds = [{key == "test_size" for key, node in each.nodes.items() if not is_null(node)} for each in (parent, child)]
    return all(kinds) and not kinds[0] & kinds[1]


def _extends_node(tree: MappingNode) -> ScalarNode | None:
    if "extends" not in tree.nodes or is_null(tree.nodes["extends"]):
        return None
    expanded = expand_env_vars(MappingNode({"extends": tree.nodes["extends"]}, tree.origin), os.environ)
    register_secrets(secret_variables(expanded))
    node = expanded.nodes["extends"]
    if isinstance(node, ScalarNode) and isinstance(node.value, str) and node.value:
        return node
    raise _error("invalid-value", "must be the path of a recipe or the name of a shipped recipe.", node)


def _read_parent(named: ScalarNode, files: list[RecipeFile]) -> RecipeFile:
    try:
        parent = read_parent(str(named.value), files[-1])
    except RecipeError:
        raise
    except UsageError as error:
        raise _error("extends-not-found", error.message, named, error.remedy) from None
    known: Mapping[object, int] = {each.identity(): number for number, each in enumerate(files)}
    if parent.identity() in known:
        cycle = [*(each.display_name for each in files[known[parent.identity()] :]), parent.display_name]
        raise _error(
            "extends-cycle",
            f"recipes extend each other in a cycle: {' → '.join(cycle)}.",
            named,
            "Remove one `extends`.",
        )
    if len(files) == MAX_FILES:
        raise _error("extends-too-deep", f"more than {MAX_FILES} recipes extend each other.", named)
    return parent


def _tree_of_parent(parent: RecipeFile) -> MappingNode:
    """The tree of a parent. If it is no YAML, its text is not shown as a remedy: a stranger's recipe may extend a private file."""
    try:
        return read_yaml(parent.text, parent.display_name)
    except RecipeError as error:
        raise RecipeError([replace(problem, remedy=None) for problem in error.problems]) from None


def _error(code: str, message: str, node: Node, remedy: str | None = None) -> RecipeError:
    origin = node.origin
    problem = Problem(code, mask_secrets(message), "extends", origin.file, origin.line, origin.column, remedy)
    return RecipeError([problem])
