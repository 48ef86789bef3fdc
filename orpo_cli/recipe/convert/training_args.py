"""Training arguments: what every tool on top of transformers takes by the names of ``TrainingArguments`` and ``ORPOConfig``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orpo_cli.recipe.convert.draft import Draft
from orpo_cli.recipe.legacy.migration import ARGUMENT_POLICIES, Migration, migrate_training_args
from orpo_cli.recipe.schema.training_fields import TrainingFields


def convert_training_args(draft: Draft, notes: Mapping[str, str] | None = None) -> None:
    """Deal with every key of the source that is left and is, or was, a training argument."""
    arguments = {
        key: value
        for key, value in draft.source.items()
        if key in ARGUMENT_POLICIES or key in TrainingFields.model_fields
    }
    translation = migrate_training_args(arguments)
    for key in arguments:
        _convert_argument(draft, key, translation, (notes or {}).get(key))


def _convert_argument(draft: Draft, key: str, translation: Migration, note: str | None) -> None:
    moved = [path for path, written in translation.written_paths.items() if written == f"training.{key}"]
    outcome = ARGUMENT_POLICIES.get(key)
    if moved:
        draft.keep(key, moved[0], _value(translation, moved[0]), note)
    elif key in translation.training:
        value = translation.training[key]
        if value != draft.source[key]:
            note = f"{draft.source[key]} there"
        draft.keep(key, f"training.{key}", value, note)
    elif key == "push_to_hub_organization":
        draft.join(key, "hub.repo_id")
    elif outcome is not None and outcome.is_noop(draft.source[key]):
        draft.settle(key, "empty")
    else:
        draft.settle(key, "left-out", None, _reason_left_out(key, translation))


def _value(translation: Migration, path: str) -> Any:
    if path in translation.other_sections:
        return translation.other_sections[path]
    here: Any = translation.training
    for part in path.split(".")[1:]:
        here = here[part]
    return here


def _reason_left_out(key: str, translation: Migration) -> str:
    """Why an argument is left out: it conflicts with another, or what the recipe says of it."""
    conflict = [
        each for each in translation.problems if each.path == f"training.{key}" and each.code == "conflicting-arguments"
    ]
    if conflict:
        return f"It {conflict[0].message}"
    outcome = ARGUMENT_POLICIES[key]
    remedy = "" if outcome.ignored else strip_removal_advice(outcome.remedy)
    return " ".join(part for part in (outcome.reason, remedy) if part)


def strip_removal_advice(remedy: str | None) -> str:
    """A remedy without the advice to remove what is gone already: ``Remove it; use x.`` as ``Use x.``"""
    text = (remedy or "").removeprefix("Remove it.").removeprefix("Remove it; ").removeprefix("Remove it and ").strip()
    return text[:1].upper() + text[1:]


def add_defaults(draft: Draft, defaults: Mapping[str, Any], tool: str) -> None:
    """Write the tool's own defaults where the plan would decide otherwise and the source is silent."""
    for path, value in defaults.items():
        written = draft.outcomes.get(path.rpartition(".")[2])
        if written is None or written.outcome != "left-out":  # else the plan decides: the default it never was
            draft.add(path, value, f"the default of {tool}")


def leave_out_all(draft: Draft, reasons: Mapping[str, str]) -> None:
    """Leave out the keys that ``reasons`` lists: the reason, then its keys as words."""
    for reason, keys in reasons.items():
        for key in keys.split():
            draft.leave_out(key, reason)


def ignore_all(draft: Draft, reasons: Mapping[str, str]) -> None:
    """Note the keys that the source tool does not read under ORPO; those that are training arguments are offered."""
    for reason, keys in reasons.items():
        for key in keys.split():
            draft.ignore(key, reason, f"training.{key}" if key in TrainingFields.model_fields else None)
