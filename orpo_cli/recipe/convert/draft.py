"""A recipe in the making, and what becomes of every key of the configuration it is made from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from orpo_cli.recipe.rules.secrets import SECRETS, secret_kind
from orpo_cli.recipe.source.nodes import Path

Outcome = Literal["kept", "ignored", "left-out", "unknown", "empty"]
MASK = "(a secret, not repeated)"
_SECRET_NAME = re.compile(r"(?:^|hub_|hf_|auth_|access_)token$|api_?key|secret|password|webhook", re.IGNORECASE)


@dataclass(frozen=True)
class KeyOutcome:
    """What became of one key of the source.

    ``kept``: it stands at ``path`` of the recipe. ``ignored``: the source tool itself would not have used it; the recipe may
    have ``offer`` at ``path``. ``left-out``: it has no meaning here. ``unknown``: the source tool has no such key. ``empty``: it
    sets nothing, or switches off what there is not here.
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
    """A value that the source does not write: its tool's default, or a placeholder (``todo``) that the user must fill."""

    note: str
    todo: bool = False


@dataclass
class Draft:
    """Values of the recipe by path, and the outcome of each key of the source.

    ``source`` holds what no one has taken yet: what is left in the end is unknown to the tool.
    """

    tool: str
    source: dict[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)
    values: dict[Path, Any] = field(default_factory=dict)
    additions: dict[Path, Addition] = field(default_factory=dict)
    outcomes: dict[str, KeyOutcome] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)  # on the whole

    def has(self, key: str) -> bool:
        """Whether the source sets ``key`` to something."""
        return not _is_empty(self.source.get(key))

    def peek(self, key: str, default: Any = None) -> Any:
        """The value of ``key`` or, where the source leaves it empty, ``default``; the key still has to be dealt with."""
        return self.source[key] if self.has(key) else default

    def keep(self, key: str, path: str, value: Any = ..., note: str | None = None) -> None:
        """``key`` becomes ``path``, with another value where one is given. A key that sets nothing is noted as empty."""
        if key not in self.source:
            return
        if not self.has(key):
            self.settle(key, "empty")
            return
        self.put(key, self.source[key], path, note, value)
        del self.source[key]

    def put(self, key: str, written: Any, path: str, note: str | None = None, value: Any = ...) -> None:
        """Set ``path`` to what ``key`` has, or to ``value``; for a key inside another, that is no key of ``source``."""
        place = parse_path(path)
        self.values[place] = written if value is ... else value
        self.additions.pop(place, None)
        self.record(key, written, "kept", place, note)

    def join(self, key: str, path: str, note: str | None = None) -> None:
        """``key`` had a part in the value at ``path`` that another key has set."""
        if key in self.source:
            self.settle(key, "kept" if self.has(key) else "empty", parse_path(path), note)

    def ignore(self, key: str, note: str, path: str | None = None, value: Any = ...) -> None:
        """The source tool itself would not have used ``key``; the recipe could have it at ``path``, as ``value``."""
        if key not in self.source:
            return
        if not self.has(key) or (path is None and self.source[key] is False):
            self.settle(key, "empty")
            return
        offer = self.source[key] if value is ... else value
        self.settle(key, "ignored", parse_path(path) if path else None, note, offer if path else None)

    def leave_out(self, key: str, note: str) -> None:
        """``key`` has no meaning here."""
        if key in self.source:
            off = _is_empty(self.source[key]) or self.source[key] is False
            self.settle(key, "empty" if off else "left-out", None, note)

    def add(self, path: str, value: Any, note: str, *, todo: bool = False) -> None:
        """Set what the source does not say; what is set already stays."""
        place = parse_path(path)
        if place not in self.values:
            self.values[place] = value
            self.additions[place] = Addition(mask_secret_patterns(note), todo)

    def withdraw(self, path: Path, note: str) -> None:
        """Take back the value at ``path``: its keys are left out, for the reason ``note``."""
        del self.values[path]
        self.additions.pop(path, None)
        for name, previous in self.outcomes.items():
            if previous.outcome == "kept" and previous.path == path:
                self.outcomes[name] = KeyOutcome(name, previous.value, "left-out", None, note, previous.line)

    def settle(
        self, key: str, outcome: Outcome, path: Path | None = None, note: str | None = None, offer: Any = None
    ) -> None:
        """Note what became of ``key`` and take it from the source."""
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
        """Note the outcome of a key, also of one inside another (``datasets[0].type``)."""
        value = _mask_secrets(key, value)
        note = mask_secret_patterns(note) if note else note
        self.outcomes[key] = KeyOutcome(key, value, outcome, path, note, self.lines.get(key), offer)

    def finish(self) -> None:
        """Whatever is left is unknown to the source tool."""
        for key in list(self.source):
            self.settle(key, "unknown" if self.has(key) else "empty")


def parse_path(path: str) -> Path:
    """``dataset.train.0.path`` as a path: digits are list indexes."""
    return tuple(int(part) if part.isdigit() else part for part in path.split("."))


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or value == [] or value == {}


def _mask_secrets(key: str, value: Any) -> Any:
    """``value`` fit to be shown and written to a file."""
    if isinstance(value, dict):
        return {name: _mask_secrets(str(name), inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_mask_secrets(key, inner) for inner in value]
    if isinstance(value, str) and value and (_SECRET_NAME.search(key) or secret_kind(value)):
        return MASK
    return value


def mask_secret_patterns(text: str) -> str:
    """``text`` without what looks like a secret in it."""
    for pattern in SECRETS.values():
        text = pattern.sub(MASK, text)
    return text
