"""One setting by two names in two layers: what the command line or the extending recipe says wins, whatever it calls it.

Within one layer, two names that differ are an error of the translation.
"""

from __future__ import annotations

from collections.abc import Sequence

from orpo_cli.recipe.legacy.migration import ARGUMENT_POLICIES
from orpo_cli.recipe.source.nodes import MappingNode, Node, Path, parse_path


def drop_superseded_aliases(tree: MappingNode, layers: Sequence[str]) -> MappingNode:
    """``tree`` without settings that a layer in front sets by another name.

    ``layers`` are the files that values come from, as their origins name them, the strongest first.
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
    """The places that mean the same setting, by its name of today."""
    places: dict[str, list[Path]] = {}
    for name, fate in ARGUMENT_POLICIES.items():
        if fate.new_path is not None:
            places.setdefault(fate.new_path, [parse_path(fate.new_path)]).append(("training", name))
    places["hub.repo_id"].append(("training", "push_to_hub_organization"))  # a part of it
    return places


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
