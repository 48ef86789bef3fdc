"""Draft recipe: values by path during a conversion, and the outcome of each key of the source configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from orpo_cli.recipe.source.nodes import Path
from orpo_cli.secret_patterns import SECRETS, secret_kind

Outcome = Literal["kept", "ignored", "left-out", "unknown", "empty"]
MASK = "(secret, not copied)"
_SECRET_NAME = re.compile(r"(?:^|hub_|hf_|auth_|access_)token$|api_?key|secret|password|webhook", re.IGNORECASE)


@dataclass(frozen=True)
class KeyOutcome:
    """Outcome of one key of the source.

    ``kept``: the recipe has its value at ``path``. ``ignored``: the source tool itself does not use it under ORPO; the recipe can
    have ``offer`` at ``path``. ``left-out``: it has no equivalent or no effect here. ``unknown``: the converter does not know the
    key. ``empty``: it has no value, or turns off a feature that is off here.
    """

    key: str
    value: Any
    outcome: Outcome
    path: Path | None = None
    note: str | None = None
    line: int | None = None
    offer: Any = None


@dataclass
class Addition:
    """Value that the source does not set: a default of its tool, or a placeholder (``todo``) that the user must replace."""

    note: str
    todo: bool = False


@dataclass
class Draft:
    """Values of the recipe by path, and the outcome of each key of the source.

    ``source`` contains the keys that have no outcome yet. Those that remain at the end are unknown.
    """

    tool: str
    source: dict[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)
    values: dict[Path, Any] = field(default_factory=dict)
    additions: dict[Path, Addition] = field(default_factory=dict)
    outcomes: dict[str, KeyOutcome] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)  # about the configuration, not about one key

    def has(self, key: str) -> bool:
        """Whether the source has a value for ``key`` that is not empty."""
        return not _is_empty(self.source.get(key))

    def peek(self, key: str, default: Any = None) -> Any:
        """Value of ``key``, or ``default`` if it is empty. The key stays in ``source``."""
        return self.source[key] if self.has(key) else default

    def value(self, path: str, default: Any = None) -> Any:
        """Value of the recipe at ``path``, or ``default``."""
        return self.values.get(parse_path(path), default)

    def has_value(self, path: str) -> bool:
        """Whether the recipe has a value at or below ``path``."""
        prefix = parse_path(path)
        return any(other[: len(prefix)] == prefix for other in self.values)

    def keep(self, key: str, path: str, value: Any = ..., note: str | None = None) -> None:
        """Move ``key`` to ``path``, with ``value`` in place of its own if given. Records an empty key as empty."""
        if self.has(key):
            self.put(key, self.source.pop(key), path, note, value)
        elif key in self.source:
            self.settle(key, "empty")

    def keep_if_true(self, key: str, path: str, value: Any = True) -> None:
        """Set ``path`` to ``value`` if ``key`` is true; otherwise leave the key out."""
        if self.peek(key) is True:
            self.keep(key, path, value)
        self.leave_out(key, "It is not true.")

    def put(self, key: str, original: Any, path: str, note: str | None = None, value: Any = ...) -> None:
        """Set ``path`` to ``original``, the value of ``key``, or to ``value``. For nested keys, which ``source`` does not have."""
        target = parse_path(path)
        self.values[target] = original if value is ... else value
        self.additions.pop(target, None)
        self.record(key, original, "kept", target, note)

    def merge_into(self, key: str, path: str, note: str | None = None) -> None:
        """Record ``key`` as kept in the value at ``path``, which another key has set."""
        if key in self.source:
            self.settle(key, "kept" if self.has(key) else "empty", parse_path(path), note)

    def ignore(self, key: str, note: str, path: str | None = None) -> None:
        """Record that the source tool does not use ``key``. ``path``: where the recipe could have its value."""
        if key not in self.source:
            return
        if not self.has(key) or (path is None and self.source[key] is False):
            self.settle(key, "empty")
            return
        self.settle(key, "ignored", parse_path(path) if path else None, note, self.source[key] if path else None)

    def leave_out(self, key: str, note: str) -> None:
        """Record ``key`` as left out, or as empty if it is empty or false."""
        if key in self.source:
            off = not self.has(key) or self.source[key] is False
            self.settle(key, "empty" if off else "left-out", None, note)

    def add(self, path: str, value: Any, note: str, *, todo: bool = False) -> None:
        """Set ``path`` to a value that the source does not have, unless ``path`` has a value."""
        target = parse_path(path)
        if target not in self.values:
            self.values[target] = value
            self.additions[target] = Addition(mask_secret_patterns(note), todo)

    def withdraw(self, path: Path, note: str) -> None:
        """Remove the value at ``path`` and record its keys as left out, with the reason ``note``."""
        del self.values[path]
        self.additions.pop(path, None)
        for name, outcome in self.outcomes.items():
            if outcome.outcome == "kept" and outcome.path == path:
                self.outcomes[name] = replace(outcome, outcome="left-out", path=None, note=note)

    def settle(
        self, key: str, outcome: Outcome, path: Path | None = None, note: str | None = None, offer: Any = None
    ) -> None:
        """Record the outcome of ``key`` and remove the key from ``source``."""
        self.record(key, self.source.pop(key), outcome, path, note, offer)

    def record(
        self,
        key: str,
        value: Any,
        outcome: Outcome,
        path: Path | None = None,
        note: str | None = None,
        offer: Any = None,
    ) -> None:
        """Record the outcome of a key, also of a nested one (``datasets[0].type``)."""
        value = mask_secrets(key, value)
        note = mask_secret_patterns(note) if note else note
        self.outcomes[key] = KeyOutcome(key, value, outcome, path, note, self.lines.get(key), offer)

    def settle_unknown_keys(self) -> None:
        """Record the keys without an outcome as unknown or empty."""
        for key in list(self.source):
            self.settle(key, "unknown" if self.has(key) else "empty")


def parse_path(path: str) -> Path:
    """Path of a dotted name such as ``dataset.train.0.path``: digits are list indexes."""
    return tuple(int(part) if part.isdigit() else part for part in path.split("."))


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or value == [] or value == {}


def mask_secrets(key: str, value: Any) -> Any:
    """Copy of ``value``, which is at ``key``, in which secrets are masked."""
    if isinstance(value, dict):
        return {name: mask_secrets(str(name), inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [mask_secrets(key, inner) for inner in value]
    if isinstance(value, str) and value and (_SECRET_NAME.search(key) or secret_kind(value)):
        return MASK
    return value


def mask_secret_patterns(text: str) -> str:
    """Copy of ``text`` in which each match of a secret pattern is masked."""
    for pattern in SECRETS.values():
        text = pattern.sub(MASK, text)
    return text
