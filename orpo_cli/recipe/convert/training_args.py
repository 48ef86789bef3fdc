"""Training arguments: keys that all tools share, with the names of ``TrainingArguments`` and ``ORPOConfig``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orpo_cli.recipe.convert.draft import Draft
from orpo_cli.recipe.legacy.migration import ARGUMENT_POLICIES, Migration, migrate_training_args
from orpo_cli.recipe.schema.training_fields import TrainingFields


def convert_remaining(
    draft: Draft, *, ignored: Mapping[str, str], unsupported: Mapping[str, str], defaults: Mapping[str, Any], tool: str
) -> None:
    """Convert the keys that need no code of their own: training arguments, ignored and unsupported keys; add defaults."""
    ignore_all(draft, ignored)
    leave_out_all(draft, unsupported)
    convert_training_args(draft)
    add_defaults(draft, defaults, tool)


def convert_training_args(draft: Draft) -> None:
    """Convert each remaining key of the source that is, or was, a training argument."""
    arguments = {
        key: value
        for key, value in draft.source.items()
        if key in ARGUMENT_POLICIES or key in TrainingFields.model_fields
    }
    migration = migrate_training_args(arguments)
    for key in arguments:
        _convert_argument(draft, key, migration)


def _convert_argument(draft: Draft, key: str, migration: Migration) -> None:
    moved = [path for path, original in migration.written_paths.items() if original == f"training.{key}"]
    policy = ARGUMENT_POLICIES.get(key)
    if moved:
        draft.keep(key, moved[0], _value(migration, moved[0]))
    elif key in migration.training:
        value, original = migration.training[key], draft.source[key]
        draft.keep(key, f"training.{key}", value, f"originally {original}" if value != original else None)
    elif key == "push_to_hub_organization":
        draft.merge_into(key, "hub.repo_id")
    elif policy is not None and policy.is_noop(draft.source[key]):
        draft.settle(key, "empty")
    else:
        draft.settle(key, "left-out", None, _reason_left_out(key, migration))


def _value(migration: Migration, path: str) -> Any:
    if path in migration.other_sections:
        return migration.other_sections[path]
    value: Any = migration.training
    for part in path.split(".")[1:]:
        value = value[part]
    return value


def _reason_left_out(key: str, migration: Migration) -> str:
    """Reason why an argument is left out: a conflict with another argument, or its policy."""
    for problem in migration.problems:
        if problem.path == f"training.{key}" and problem.code == "conflicting-arguments":
            return f"It {problem.message}"
    policy = ARGUMENT_POLICIES[key]
    remedy = "" if policy.ignored else strip_removal_advice(policy.remedy)
    return " ".join(part for part in (policy.reason, remedy) if part)


def strip_removal_advice(remedy: str | None) -> str:
    """Remedy without the advice to remove the key, which the recipe does not have: ``Remove it; use x.`` becomes ``Use x.``"""
    text = (remedy or "").removeprefix("Remove it.").removeprefix("Remove it; ").removeprefix("Remove it and ").strip()
    return text[:1].upper() + text[1:]


def add_defaults(draft: Draft, defaults: Mapping[str, Any], tool: str) -> None:
    """Add defaults of the tool that differ from what the plan would decide, where the source sets nothing."""
    for path, value in defaults.items():
        outcome = draft.outcomes.get(path.rpartition(".")[2])
        if outcome is None or outcome.outcome != "left-out":  # a key left out was set: its default never applied
            draft.add(path, value, f"the default of {tool}")


def leave_out_all(draft: Draft, reasons: Mapping[str, str]) -> None:
    """Leave out the keys in ``reasons``, which maps a reason to its keys, separated by spaces."""
    for reason, keys in reasons.items():
        for key in keys.split():
            draft.leave_out(key, reason)


def ignore_all(draft: Draft, reasons: Mapping[str, str]) -> None:
    """Record the keys in ``reasons`` as ignored by the source tool; training arguments can be turned on in the recipe."""
    for reason, keys in reasons.items():
        for key in keys.split():
            draft.ignore(key, reason, f"training.{key}" if key in TrainingFields.model_fields else None)
