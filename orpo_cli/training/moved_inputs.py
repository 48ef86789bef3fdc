"""Moved inputs of a run: local data and models that a resumed run finds at another path, and data files that are gone.

A project may be moved or copied, and a path be written in another way. What counts is the content, which has fingerprints.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orpo_cli.planning.plan import Plan
from orpo_cli.recipe.schema import Source


def is_gone(old: str, new: str) -> bool:
    """Whether a recipe's path ``new`` means the local file ``old`` of the run, which no longer exists.

    A plan has the absolute path of a file that exists, and any other path as the recipe has it.
    """
    path = Path(old)
    if old == new or not path.is_absolute() or path.exists():
        return False
    written = Path(os.path.normpath(Path(new).expanduser()))
    if written.is_absolute():
        return written == path
    tail = tuple(part for part in written.parts if part != os.pardir)
    return bool(tail) and path.parts[-len(tail) :] == tail


def restore_gone_paths(before: Plan, now: Plan) -> Plan:
    """``now`` with the absolute paths of ``before`` of the data files that are gone."""
    changes = {}
    for part in ("train", "eval"):
        old, new = getattr(before.dataset, part), getattr(now.dataset, part)
        if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            changes[part] = [
                other.model_copy(update={"path": one.path}) if is_gone(one.path, other.path) else other
                for one, other in zip(old, new, strict=True)
            ]
    return now.model_copy(update={"dataset": now.dataset.model_copy(update=changes)})


def follow_moves(before: Plan, now: Plan, recorded: Mapping[str, Any]) -> tuple[Plan, list[str]]:
    """The plan ``before`` with the local paths of ``now``, and a line for each that differs.

    Only for inputs with a ``recorded`` fingerprint, so that the content is compared: a run of version 0.2.0 has none of its model.
    """
    moved: list[str] = []

    def follow(name: str, old: str, new: str) -> str:
        if old == new or not (
            Path(old).is_absolute() and Path(new).is_absolute()
        ):  # in a plan, local paths are absolute
            return old
        moved.append(f"{name}: {old!r} → {new!r}")
        return new

    def follow_all(name: str, old: list[Source], new: list[Source]) -> list[Source]:
        return [
            one.model_copy(update={"path": follow(f"{name}[{index}].path", one.path, other.path)})
            for index, (one, other) in enumerate(zip(old, new, strict=True))
        ]

    model, dataset = {}, {}
    if recorded.get("weights") and recorded.get("tokenizer"):
        old, new = before.model.model_name_or_path, now.model.model_name_or_path
        model["model_name_or_path"] = follow("model.model_name_or_path", old, new)
    if recorded.get("chat_template"):
        model["chat_template"] = follow("model.chat_template", before.model.chat_template, now.model.chat_template)
    for part in ("train", "eval"):
        if not (recorded.get("data") or {}).get(part):
            continue
        sources, others = getattr(before.dataset, part), getattr(now.dataset, part)
        if isinstance(sources, list) and isinstance(others, list) and len(sources) == len(others):
            dataset[part] = follow_all(f"dataset.{part}", sources, others)
    changes = {
        "model": before.model.model_copy(update=model),
        "dataset": before.dataset.model_copy(update=dataset),
    }
    return before.model_copy(update=changes), moved
