"""Pair lengths: tokens of the training pairs, measured or the longest that the plan allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from orpo_cli.errors import Problem
from orpo_cli.planning.plan import PlanDraft


class PairSize(NamedTuple):
    """Tokens of a pair: the prompt, and each completion without the prompt."""

    prompt: int
    chosen: int
    rejected: int

    @property
    def total(self) -> int:
        """Tokens of the pair with its prompt once, as `orpo data` counts them."""
        return self.prompt + self.chosen + self.rejected

    @property
    def packed(self) -> int:
        """Tokens of the pair in a packed row: the last token of a completion is predicted, and no input."""
        return self.prompt + max(0, self.chosen - 1) + max(0, self.rejected - 1)

    @property
    def longest(self) -> int:
        """Tokens of the longer sequence."""
        return self.prompt + max(self.chosen, self.rejected)


@dataclass(frozen=True)
class PairLengths:
    """Lengths of the training pairs. ``measured``: read from the data; else the longest that the recipe allows.

    ``notes``: what the data report says of the pairs that were read, such as rows of text that become messages. ``warnings``: of
    these pairs, or that training will refuse the data. ``held_out``: the number of held-out pairs, where it was counted.
    """

    pairs: tuple[PairSize, ...]
    measured: bool
    notes: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()
    held_out: int | None = None

    @property
    def longest(self) -> PairSize:
        """The pair with the most packed tokens."""
        return max(self.pairs, key=lambda pair: pair.packed)

    def longest_of(self, count: int) -> PairSize:
        """About the longest of ``count`` drawn pairs; the longest of all where that many are drawn."""
        by_size = sorted(self.pairs, key=lambda pair: pair.packed)
        return by_size[min(len(by_size) - 1, round(len(by_size) * count / (count + 1)))]

    @property
    def mean(self) -> PairSize:
        """A pair of mean lengths."""
        count = len(self.pairs)
        return PairSize(*(round(sum(column) / count) for column in zip(*self.pairs, strict=True)))


def worst_case_lengths(plan: PlanDraft) -> PairLengths:
    """The longest pair that the plan allows: a short prompt and two completions that fill ``max_length``."""
    longest = plan.training["max_length"]
    prompt = max(1, min(plan.dataset.max_prompt_length, longest // 8))
    return PairLengths((PairSize(prompt, longest - prompt, longest - prompt),), measured=False)
