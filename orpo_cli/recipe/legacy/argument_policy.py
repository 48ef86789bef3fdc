"""Argument policy: how a former or unsupported training argument is handled."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ArgumentPolicy:
    """Handling of one argument, depending on its value. The first rule that applies decides.

    * null, ``noop_values`` and ``noop_pattern`` (values without effect, as printed configurations have them): ignored with a note.
    * ``new_path``: moved to this dotted path with a note. ``convert`` converts the value, and raises ValueError with the rule if it
      cannot. A value of ``overwritable_values`` at the new path counts as unset.
    * ``supported``: kept, because a recipe has an argument of this name.
    * ``ignored``: ignored with a note, whatever the value.
    * otherwise: refused with ``remedy``.
    """

    reason: str  # one or two sentences
    remedy: str | None = None
    noop_values: tuple[Any, ...] = ()
    noop_pattern: str | None = None  # regular expression for texts without effect
    new_path: str | None = None
    convert: Callable[[Any], Any] | None = None
    overwritable_values: tuple[Any, ...] = ()
    supported: bool = False
    ignored: bool = False
    secret: bool = False  # its value is never shown

    def is_noop(self, value: Any) -> bool:
        """Whether ``value`` has no effect. ``0`` and ``false`` are different values."""
        if isinstance(value, str) and self.noop_pattern and re.fullmatch(self.noop_pattern, value):
            return True
        return value is None or any(equal_and_same_kind(value, each) for each in self.noop_values)


def equal_and_same_kind(one: Any, other: Any) -> bool:
    """Equality that distinguishes true from 1, but not 1 from 1.0."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
