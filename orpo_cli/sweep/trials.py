"""Trials of a sweep: their values, and names that say what differs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from orpo_cli.recipe.source.yaml_writer import inline_yaml
from orpo_cli.sweep.search_space import Values, override

MAX_NAME = 120  # characters
MAX_NAME_BYTES = 200  # in UTF-8, of the 255 that a file may have: ",2" and ".log" come behind
MAX_VALUE = 30


@dataclass(frozen=True)
class Trial:
    """One training of a sweep: its name, which is also that of its folder, and the values that it changes."""

    name: str
    values: Values

    def overrides(self) -> list[str]:
        """The values as arguments of ``--set``."""
        return [override(key, value) for key, value in self.values.items()]


def name_trials(combinations: Iterable[Values], taken: Sequence[str] = ()) -> list[Trial]:
    """A trial for each combination, named by its values: ``learning_rate=1e-5,beta=0.1``. ``taken``: names of other trials."""
    names, trials = set(taken), []
    for values in combinations:
        shorts = short_keys(list(values))
        text = ",".join(f"{shorts[key]}={value_text(value)}" for key, value in values.items())
        short = text[:MAX_NAME].encode()[:MAX_NAME_BYTES].decode(errors="ignore")  # without a part of a character
        name, number = short, 2
        while name in names:
            name, number = f"{short},{number}", number + 1
        names.add(name)
        trials.append(Trial(name, values))
    return trials


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key, with as many parts before it as tell it apart from the others."""
    parts = {key: _name_characters(key).split(".") for key in keys}
    shorts = {key: parts[key][-1] for key in keys}
    for length in range(2, 6):
        repeated = Counter(shorts.values())
        shorts = {
            key: short if repeated[short] == 1 else ".".join(parts[key][-length:]) for key, short in shorts.items()
        }
    return shorts


def value_text(value: Any) -> str:
    """A value in a name: ``1e-5``, ``true``, ``cosine``; without characters that a shell or a path treats specially."""
    if isinstance(value, float):
        return re.sub(r"e([-+])0*", lambda match: f"e{match[1].replace('+', '')}", f"{value:.6g}")
    text = value.rsplit("/", 1)[-1] if isinstance(value, str) else inline_yaml(value)
    return _name_characters(text)[:MAX_VALUE] or "empty"


def _name_characters(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.")
