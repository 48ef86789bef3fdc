"""Precedence of aliases: if two layers set the same setting under different names, the stronger layer wins.

Layers are the command line, the recipe and the recipes that it extends. Two different values in one layer are an error, which the
migration reports.
"""

from __future__ import annotations

from collections.abc import Sequence

from orpo_cli.recipe.legacy.migration import ARGUMENT_POLICIES
from orpo_cli.recipe.source.nodes import MappingNode, Node, Path, parse_path


def drop_superseded_aliases(tree: MappingNode, layers: Sequence[str]) -> MappingNode:
    """``tree`` without settings that a stronger layer sets under another name.

    ``layers`` are the files of the values, as in their origins, strongest first.
    """
    training = tree.nodes.get("training")
    if not isinstance(training, MappingNode) or not training.nodes.keys() & ARGUMENT_POLICIES.keys():
        return tree
    for names in _paths_by_setting().values():
        found = {path: layers.index(node.origin.file) for path in names if (node := _find(tree, path)) is not None}
        for path, layer in found.items():
            if layer > min(found.values()):
                tree = _without(tree, path)
    return tree


def _paths_by_setting() -> dict[str, list[Path]]:
    """The paths of all aliases of a setting, by its current path."""
    paths: dict[str, list[Path]] = {}
    for name, policy in ARGUMENT_POLICIES.items():
        if policy.new_path is not None:
            paths.setdefault(policy.new_path, [parse_path(policy.new_path)]).append(("training", name))
    paths["hub.repo_id"].append(("training", "push_to_hub_organization"))  # the namespace of the repository
    return paths


def _find(tree: MappingNode, path: Path) -> Node | None:
    node: Node = tree
    for part in path:
        if not isinstance(node, MappingNode) or part not in node.nodes:
            return None
        node = node.nodes[str(part)]
    return node


def _without(tree: MappingNode, path: Path) -> MappingNode:
    first, *rest = path
    nodes = dict(tree.nodes)
    inner = nodes.pop(str(first))
    if rest and isinstance(inner, MappingNode):
        nodes[str(first)] = _without(inner, tuple(rest))
    return MappingNode(nodes, tree.origin)
