"""Migration of training arguments: former, moved and unsupported arguments of ORPOConfig, converted to the current keys of a recipe.

``migrate_training_args`` takes the mapping under `training:`, ``migrate_recipe`` a recipe. Nothing is dropped silently: renamed, moved
and ignored arguments are warnings, refused ones errors. Unknown names are kept, so that the schema refuses them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orpo_cli.errors import Problem
from orpo_cli.recipe.legacy.argument_policy import ArgumentPolicy, equal_and_same_kind
from orpo_cli.recipe.legacy.renamed_args import RENAMED_ARGS, RENAMED_OPTIMIZERS
from orpo_cli.recipe.legacy.unsupported_training_args import UNSUPPORTED_TRAINING_ARGS
from orpo_cli.recipe.source.nodes import MappingNode, Path, parse_path, walk

ARGUMENT_POLICIES = {**RENAMED_ARGS, **UNSUPPORTED_TRAINING_ARGS}


@dataclass
class Migration:
    """Migrated training arguments.

    ``training`` has the arguments that stay under `training:`. ``other_sections`` maps dotted paths (``dataset.max_prompt_length``) to
    values of other sections. ``written_paths`` maps the new dotted path of each moved value to the path where it was written.
    Problems have the path where the value was written, without file and line.
    """

    training: dict[str, Any]
    other_sections: dict[str, Any] = field(default_factory=dict)
    written_paths: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def apply_policy(self, name: str, policy: ArgumentPolicy) -> None:
        """Keep, move, ignore or refuse one argument."""
        value = self.training.pop(name)
        if policy.is_noop(value) or policy.ignored:
            message = f"has no effect as `{_format_value(value)}` and is ignored."
            self.add_warning("argument-without-effect", name, message, policy.reason)
        elif policy.new_path is not None:
            self.move_argument(name, policy, policy.new_path, value)
        elif policy.supported:
            self.training[name] = value
        else:
            self.problems.append(_refusal(name, policy))

    def move_argument(self, name: str, policy: ArgumentPolicy, new_path: str, value: Any) -> None:
        """Convert the value and set it at its new path; a different value there is a problem."""
        written = f"training.{name}"
        try:
            converted = policy.convert(value) if policy.convert else value
        except ValueError as error:
            message = f"{error}, but is {_format_value(value)}."
            self.problems.append(Problem("invalid-value", message, written, remedy=policy.reason))
            return
        section, _, key = new_path.partition(".")
        if section == "training":
            is_set = _set_path(self.training, key, converted, policy.overwritable_values)
        else:
            existing = self.other_sections.setdefault(new_path, converted)
            is_set = existing is converted or equal_and_same_kind(existing, converted)  # NaN is not equal to itself
        if not is_set:
            self.problems.append(_conflict(written, new_path))
            return
        self.written_paths.setdefault(new_path, written)
        message = f"is read as `{new_path}: {_format_value(converted)}`."
        if name in RENAMED_ARGS:
            self.add_warning("renamed-argument", name, message, policy.reason)
        else:
            self.add_warning("moved-argument", name, message, policy.reason)

    def join_organization(self) -> None:
        """Former versions had separate arguments for the organization and the name of the repository."""
        organization, model = (self.training.get(f"push_to_hub_{part}") for part in ("organization", "model_id"))
        if isinstance(organization, str) and isinstance(model, str) and "/" not in model:
            repo_id = f"{organization}/{model}"
            self.training["push_to_hub_model_id"] = repo_id
            self.training.pop("push_to_hub_organization")
            message = f"is read as part of `hub.repo_id: {repo_id}`."
            self.add_warning("renamed-argument", "push_to_hub_organization", message)

    def rename_optimizer(self) -> None:
        """Replace a former value of ``optim``."""
        former = self.training.get("optim")
        if isinstance(former, str) and former in RENAMED_OPTIMIZERS:
            current = RENAMED_OPTIMIZERS[former]
            self.training["optim"] = current
            self.add_warning("renamed-argument", "optim", f"is read as `{current}`, the current name of `{former}`.")

    def add_warning(self, code: str, name: str, message: str, reason: str | None = None) -> None:
        """Add a warning about the argument ``name``."""
        text = f"{message} {reason}" if reason else message
        self.problems.append(Problem(code, text, f"training.{name}", severity="warning"))


def drop_superseded_aliases(tree: MappingNode, layers: Sequence[str]) -> MappingNode:
    """``tree`` without settings that a stronger layer sets under another name.

    Layers are the command line, the recipe and the recipes that it extends. Two different values in one layer are an error, which
    ``migrate_recipe`` reports. ``layers`` are the files of the values, as in their origins, strongest first.
    """
    training = tree.nodes.get("training")
    if not isinstance(training, MappingNode) or not training.nodes.keys() & ARGUMENT_POLICIES.keys():
        return tree
    nodes = dict(walk(tree))
    for names in _paths_by_setting().values():
        found = {path: layers.index(nodes[path].origin.file) for path in names if path in nodes}
        for path, layer in found.items():
            if layer > min(found.values()):
                tree = _without(tree, path)
    return tree


def migrate_training_args(training: Mapping[str, Any]) -> Migration:
    """``training`` with current argument names."""
    migration = Migration(dict(training))
    migration.join_organization()
    for policies in (
        RENAMED_ARGS,
        UNSUPPORTED_TRAINING_ARGS,
    ):  # the current name of a renamed argument may be unsupported
        for name in [name for name in migration.training if name in policies]:
            migration.apply_policy(name, policies[name])
    migration.rename_optimizer()
    return migration


def migrate_recipe(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str], tuple[Problem, ...]]:
    """The plain values of a recipe with current names, with ``Migration.written_paths`` and the problems."""
    if not isinstance(values.get("training"), Mapping):
        return dict(values), {}, ()
    migration = migrate_training_args(values["training"])
    result = {**values, "training": migration.training}
    problems = list(migration.problems)
    for path, value in sorted(migration.other_sections.items(), key=lambda item: item[0].count(".")):
        written = migration.written_paths[path]
        if not _set_path(result, path, value):
            problems = [each for each in problems if each.path != written]
            problems.append(_conflict(written, path))
    return result, migration.written_paths, tuple(problems)


def _set_path(values: dict[str, Any], path: str, value: Any, overwritable: tuple[Any, ...] = ()) -> bool:
    """Set ``value`` at the dotted ``path``, copying the mappings on the way; False if another value is there."""
    mapping = values
    *sections, key = path.split(".")
    for section in sections:
        inner = mapping.get(section)
        if inner is not None and not isinstance(inner, Mapping):
            return False
        mapping[section] = dict(inner or {})
        mapping = mapping[section]
    existing = mapping.get(key)
    if existing is not None and not any(equal_and_same_kind(existing, each) for each in (value, *overwritable)):
        return False
    mapping[key] = value
    return True


def _refusal(name: str, policy: ArgumentPolicy) -> Problem:
    path = f"training.{name}"
    if policy.secret:
        return Problem("secret-in-recipe", f"contains a token. {policy.reason}", path, remedy=policy.remedy)
    if name in RENAMED_ARGS:
        return Problem("removed-argument", f"is no longer an argument. {policy.reason}", path, remedy=policy.remedy)
    return Problem("unsupported-training-argument", f"cannot be set here. {policy.reason}", path, remedy=policy.remedy)


def _conflict(written: str, path: str) -> Problem:
    message = f"has another value than `{path}`, which is the same setting."
    return Problem("conflicting-arguments", message, written, remedy="Keep one.")


def _format_value(value: Any) -> str:
    """A value as in YAML, shortened to 80 characters."""
    import json  # only migrated recipes need it

    text = value if isinstance(value, str) and value else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"


def _paths_by_setting() -> dict[str, list[Path]]:
    """The paths of all aliases of a setting, by its current path."""
    paths: dict[str, list[Path]] = {}
    for name, policy in ARGUMENT_POLICIES.items():
        if policy.new_path is not None:
            paths.setdefault(policy.new_path, [parse_path(policy.new_path)]).append(("training", name))
    paths["hub.repo_id"].append(("training", "push_to_hub_organization"))  # the namespace of the repository
    return paths


def _without(tree: MappingNode, path: Path) -> MappingNode:
    first, *rest = path
    nodes = dict(tree.nodes)
    inner = nodes.pop(str(first))
    if rest and isinstance(inner, MappingNode):
        nodes[str(first)] = _without(inner, tuple(rest))
    return MappingNode(nodes, tree.origin)
