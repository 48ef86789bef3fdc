"""What differs between runs: their keys of the recipe, and short labels that tell them apart. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orpo_cli.control_characters import one_line
from orpo_cli.memory_dataset import source_label
from orpo_cli.report.run_history import RunHistory

# Keys of a plan that say where a run is or what it is called, not what it trains.
_NOT_COMPARED = ("name", "output_dir", "tags", "sweep", "hub", "secrets")
_EXPLICIT = {"recipe", "override", "environment"}  # origins of a value that the user has set
_NO_SECTION = object()
MAX_LABEL, MAX_LABEL_KEYS = 60, 3


def changed_keys(histories: Sequence[RunHistory]) -> list[dict[str, Any]]:
    """For each run its values of the keys that differ between the runs, by dotted key of the recipe.

    Only keys that a recipe or a command line has set in one of the runs; names and places of runs are left out. A run without a
    key that others have has None there. Of a section that a run does not have (``lora: null``), the others have "set".
    Keys of the command line come first, then those of the training and the adapter, learning rate and beta before the others.
    """
    origins: dict[str, set[str]] = {}
    for history in histories:
        for key, origin in history.origins.items():
            if origin in _EXPLICIT and key.split(".")[0] not in _NOT_COMPARED:
                origins.setdefault(key, set()).add(origin)
    keys = sorted(
        origins,
        key=lambda key: (
            "override" not in origins[key],
            key not in ("training.learning_rate", "training.beta"),
            not key.startswith(("training.", "lora.")),
        ),
    )
    rows: list[dict[str, Any]] = [{} for _ in histories]
    readable = [index for index, history in enumerate(histories) if history.values]
    for key in keys:
        values = {index: _value(histories[index], key) for index in readable}
        compared = [value for value in values.values() if value is not _NO_SECTION]
        if any(value != compared[0] for value in compared[1:]):
            for index, value in values.items():
                rows[index][key] = None if value is _NO_SECTION else value
    return rows


def run_labels(histories: Sequence[RunHistory]) -> list[str]:
    """A short label for each run, all different: its name, or what differs between the runs, or its path."""
    changed = changed_keys(histories)
    by_values = [
        ", ".join(
            f"{key.rpartition('.')[2]}={value_text(value)}" for key, value in list(values.items())[:MAX_LABEL_KEYS]
        )
        for values in changed
    ]
    names = [one_line(history.name) for history in histories]
    folders = [one_line(history.path.resolve().name) for history in histories]
    for labels in (names, by_values, folders):
        if len(set(labels)) == len(labels) and all(0 < len(label) <= MAX_LABEL for label in labels):
            return labels
    return [one_line(str(history.path)) for history in histories]


def value_text(value: Any, *, short: bool = True) -> str:
    """A value of the plan on one line: with ``short``, a path by its last name and a long list by its length."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        texts = [
            value_text(each.get("path") if isinstance(each, dict) and "path" in each else each, short=short)
            for each in value
        ]
        return ", ".join(texts) if len(texts) <= 3 or not short else f"{len(texts)} items"
    if isinstance(value, dict):
        return ", ".join(f"{key}={value_text(each, short=short)}" for key, each in value.items() if each is not None)
    text = source_label(one_line(str(value)))
    return Path(text).name if short and text.startswith(("/", "./", "../", "~", "package://")) else text


def _value(history: RunHistory, key: str) -> Any:
    """The value of a key; ``_NO_SECTION`` where a section above it is null."""
    values = history.values
    if key in values:
        return values[key]
    parents = key.split(".")[:-1]
    if any(".".join(parents[: count + 1]) in values for count in range(len(parents))):
        return _NO_SECTION
    return "set" if any(each.startswith(f"{key}.") for each in values) else None
