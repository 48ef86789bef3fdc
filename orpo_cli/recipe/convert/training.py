"""Training arguments: what every tool on top of transformers takes by the names of ``TrainingArguments`` and ``ORPOConfig``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orpo_cli.recipe.convert.draft import Draft
from orpo_cli.recipe.former_names import FORMER_NAMES
from orpo_cli.recipe.training_fields import TrainingFields

# Arguments that stand in another part of a recipe.
ELSEWHERE = {
    "output_dir": "output_dir",
    "hub_model_id": "hub.repo_id",
    "hub_private_repo": "hub.private",
    "max_prompt_length": "dataset.max_prompt_length",
    "truncation_mode": "dataset.truncation_mode",
}
RENAMED = {"evaluation_strategy": "eval_strategy", "no_cuda": "use_cpu", "warmup_ratio": "warmup_steps"}


def keep_training(draft: Draft, key: str, note: str | None = None) -> bool:
    """Deal with ``key`` if it is, or was, a training argument; says whether it is one."""
    if key in ELSEWHERE:
        draft.keep(key, ELSEWHERE[key], note=note)
    elif key in RENAMED:
        draft.keep(key, f"training.{RENAMED[key]}", note=note)
    elif key == "group_by_length":
        draft.keep(key, "training.train_sampling_strategy", "group_by_length" if draft.peek(key) else "random")
    elif key in TrainingFields.model_fields:
        draft.keep(key, f"training.{key}", note=note)
    elif key in FORMER_NAMES:
        draft.leave_out(key, FORMER_NAMES[key])
    else:
        return False
    return True


def keep_all_training(draft: Draft) -> None:
    """Deal with every training argument that is left in the source."""
    for key in list(draft.source):
        keep_training(draft, key)


def add_defaults(draft: Draft, defaults: Mapping[str, Any], tool: str) -> None:
    """Write the tool's own defaults where the plan would decide otherwise and the source is silent."""
    for path, value in defaults.items():
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
