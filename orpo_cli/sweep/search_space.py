"""Search space of a sweep: the keys of the recipe that it changes, each with a list of values or a range.

``--grid KEY=V,V`` lists values, in YAML. ``--range KEY=LOW..HIGH`` is a range, ``:log`` behind it draws the logarithm evenly: as many
values between 1e-6 and 1e-5 as between 1e-5 and 1e-4.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orpo_cli.errors import RecipeError, UsageError
from orpo_cli.json_files import is_number
from orpo_cli.recipe.source.nodes import Origin, SequenceNode, parse_path, plain_values
from orpo_cli.recipe.source.yaml_reader import parse_value, read_value
from orpo_cli.recipe.source.yaml_writer import inline_yaml

GRID, RANGE = "--grid", "--range"
LOG_SUFFIX = ":log"
SIGNIFICANT_DIGITS = 3  # of a value that is drawn: enough for a name, and more than a sweep can tell apart
_SET_BY_SWEEP = ("name", "output_dir", "extends")
_MAX_DRAWS = 10_000  # for one combination that was not drawn before; after these there are no more

Values = dict[str, Any]  # by dotted key


@dataclass(frozen=True)
class Choice:
    """Values of one key that are listed."""

    values: tuple[Any, ...]
    option = GRID

    def draw(self, position: float) -> Any:
        """The value at a position from 0 to 1."""
        return self.values[min(int(position * len(self.values)), len(self.values) - 1)]

    def as_json(self) -> Any:
        """The values, as sweep.json has them."""
        return list(self.values)


@dataclass(frozen=True)
class Range:
    """Range of the values of one key, both ends included; integers where both ends are."""

    low: float
    high: float
    log: bool
    option = RANGE

    @property
    def is_integer(self) -> bool:
        """Whether the values are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def values(self) -> tuple[Any, ...]:
        """Both ends: where these are valid, so are the values between them."""
        return self.low, self.high

    def draw(self, position: float) -> Any:
        """The value at a position from 0 to 1."""
        if self.log:
            value = math.exp(math.log(self.low) + position * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + position * (self.high - self.low)
        return self.rounded(value)

    def rounded(self, value: float) -> float:
        """An integer, or a number with three significant digits, inside the range."""
        short = round(value) if self.is_integer else float(f"{value:.{SIGNIFICANT_DIGITS}g}")
        return min(max(short, self.low), self.high)

    def as_json(self) -> Any:
        """The range, as sweep.json has it."""
        return {"low": self.low, "high": self.high, "log": self.log}


@dataclass(frozen=True)
class SearchSpace:
    """The keys that a sweep changes, in the order of the command line."""

    parts: Mapping[str, Choice | Range]

    def grid(self) -> Iterator[Values]:
        """All combinations of the listed values; the last key changes fastest."""
        for combination in itertools.product(*(each.values for each in self.parts.values())):
            yield dict(zip(self.parts, combination, strict=True))

    def sample(self, count: int, seed: int) -> list[Values]:
        """``count`` different combinations at random, or fewer where there are no more.

        More combinations with the same seed begin with the same ones, so that a sweep can be extended.
        """
        generator, found = random.Random(seed), []
        for _ in range(count):
            for _ in range(_MAX_DRAWS):
                values = {key: part.draw(generator.random()) for key, part in self.parts.items()}
                if values not in found:
                    found.append(values)
                    break
            else:
                break
        return found

    def as_json(self) -> dict[str, Any]:
        """Lists and ranges by key, as sweep.json has them."""
        return {key: part.as_json() for key, part in self.parts.items()}


def parse_search_space(grids: Sequence[str], ranges: Sequence[str]) -> SearchSpace:
    """The search space of the options ``--grid`` and ``--range``. Raises UsageError for another form."""
    parts: dict[str, Choice | Range] = {}
    for option, texts in ((GRID, grids), (RANGE, ranges)):
        for text in texts:
            key, part = _parse_choice(text) if option == GRID else _parse_range(text)
            if key in parts:
                raise UsageError(
                    f"{option} {text}: {key} is given twice.", remedy=f"Give all values in one {GRID} {key}=V,V."
                )
            parts[key] = part
    return SearchSpace(parts)


def override(key: str, value: Any) -> str:
    """The argument of ``--set`` that gives a key this value."""
    return f"{key}={inline_yaml(value)}"


def _parse_choice(text: str) -> tuple[str, Choice]:
    key, written = _parse_key(GRID, text, "KEY=VALUE,VALUE")
    try:
        node = read_value(f"[{written}]", Origin(GRID))
    except RecipeError as error:
        raise UsageError(f"{GRID} {text}: {error.problems[0].message}") from error
    if not isinstance(node, SequenceNode) or not node.nodes:
        raise UsageError(
            f"{GRID} {text}: must be values with commas between them.",
            remedy=f"Write text with a comma in quotes: {GRID} '{key}=\"a,b\",c'.",
        )
    values = [plain_values(each) for each in node.nodes]
    repeated = next((value for index, value in enumerate(values) if value in values[:index]), None)
    if repeated is not None:
        raise UsageError(f"{GRID} {text}: {inline_yaml(repeated)} is given twice.", remedy="Remove one.")
    return key, Choice(tuple(values))


def _parse_range(text: str) -> tuple[str, Range]:
    form = f"KEY=LOW..HIGH or KEY=LOW..HIGH{LOG_SUFFIX}"
    key, written = _parse_key(RANGE, text, form)
    log = written.endswith(LOG_SUFFIX)
    low, dots, high = written.removesuffix(LOG_SUFFIX).partition("..")
    ends = parse_value(low.strip()), parse_value(high.strip())
    if not dots or not all(is_number(each) for each in ends):
        raise UsageError(
            f"{RANGE} {text}: must be of the form {form}, with two numbers.",
            remedy=f"For example: {RANGE} training.learning_rate=1e-6..1e-4{LOG_SUFFIX}",
        )
    if ends[0] >= ends[1]:
        raise UsageError(f"{RANGE} {text}: the first number must be below the second one.")
    if log and ends[0] <= 0:
        raise UsageError(
            f"{RANGE} {text}: a range with {LOG_SUFFIX} must be above 0, where the logarithm begins.",
            remedy=f"Raise the first number, or leave out {LOG_SUFFIX}.",
        )
    return key, Range(*ends, log)


def _parse_key(option: str, text: str, form: str) -> tuple[str, str]:
    name, equals, written = text.partition("=")
    key, written = name.strip(), written.strip()
    path = parse_path(key)
    if not equals or not written or not path or not all(part != "" for part in path):
        raise UsageError(
            f"{option} {text}: must be of the form {form}.",
            remedy="Quote it for the shell if it has spaces or brackets.",
        )
    if path[0] in _SET_BY_SWEEP:
        raise UsageError(
            f"{option} {text}: {path[0]} cannot be varied: each trial gets its own name and directory.",
            remedy="Vary another key, such as training.learning_rate.",
        )
    return key, written
