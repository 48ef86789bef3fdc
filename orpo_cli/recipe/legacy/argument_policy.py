"""What becomes of a training argument that this tool does not hand to trl as it stands."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ArgumentPolicy:
    """One argument's fate, by the value that is written.

    * null, and a value in ``idle`` (what printed configurations hold that nobody asked for): left out, with a note.
    * else with ``to``, a dotted path: read as that setting, with a note; ``convert`` makes its value and raises ValueError
      with the rule where it cannot. A value in ``unset`` at that place counts as none.
    * else with ``own``: kept; this tool has a setting of that name.
    * else with ``ignored``: left out, with a note, whatever the value.
    * else refused.
    """

    reason: str  # a sentence, or two
    remedy: str | None = None  # what to do where it is refused
    noop_values: tuple[Any, ...] = ()
    noop_pattern: str | None = None  # a pattern of texts that are idle
    new_path: str | None = None
    convert: Callable[[Any], Any] | None = None
    overwritable_values: tuple[Any, ...] = ()
    supported: bool = False
    ignored: bool = False
    secret: bool = False  # its value is never shown
    checked_by_rules: bool = False  # where it is refused, the rules see it all the same

    def is_noop(self, value: Any) -> bool:
        """Whether ``value`` is null or idle. ``0`` and ``false`` are not the same."""
        if isinstance(value, str) and self.noop_pattern and re.fullmatch(self.noop_pattern, value):
            return True
        return value is None or any(equal_and_same_kind(value, each) for each in self.noop_values)


def equal_and_same_kind(one: Any, other: Any) -> bool:
    """Equal, with true and 1 held apart; 1 and 1.0 are equal."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
