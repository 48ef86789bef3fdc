"""Watchdogs: rules over the metrics of a run that name what goes wrong, once for each time that it begins.

``check`` judges a finished run; ``Watchdogs`` gets the lines one by one, live. Both find the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orpo_cli.watchdogs.metric_history import MetricHistory, Setup
from orpo_cli.watchdogs.preference_rules import (
    accuracy_unchanged,
    chosen_likelihood_falls,
    evaluation_worse,
    length_bias,
    odds_ratio_negligible,
    overfitting,
)
from orpo_cli.watchdogs.training_rules import Verdict, gradient_clipped, loss_spike, throughput_halved

Lines = Literal["train", "eval", "either"]  # either: evaluations where they can judge, otherwise train lines

# A finding ends after so many lines without it; from then on the rule may find something again.
CLEAR_AFTER = {"train": 20, "eval": 2}


@dataclass(frozen=True)
class Finding:
    """What a watchdog has found. ``orpo explain CODE`` has its thresholds; ``message`` has the numbers of the run and a remedy."""

    code: str
    step: int
    message: str


@dataclass
class Rule:
    """A rule, the lines after which it is applied, and whether what it has found goes on."""

    code: str
    lines: Lines
    function: Callable[[MetricHistory], Verdict]
    found: bool = False
    clear: int = 0

    def apply(self, history: MetricHistory, kind: str) -> str | None:
        """The message of a finding that begins with the last line."""
        either = "eval" if history.judges_by_evaluations else "train"
        if kind != (either if self.lines == "either" else self.lines):
            return None
        verdict = self.function(history)
        if isinstance(verdict, str):
            begins, self.found, self.clear = not self.found, True, 0
            return verdict if begins else None
        if verdict is False and self.found:
            self.clear += 1
            self.found = self.clear < CLEAR_AFTER[kind]
        return None


def _rules() -> list[Rule]:
    return [
        Rule("chosen-likelihood-falls", "either", chosen_likelihood_falls),
        Rule("overfitting", "train", overfitting),
        Rule("odds-ratio-negligible", "either", odds_ratio_negligible),
        Rule("accuracy-unchanged", "either", accuracy_unchanged),
        Rule("evaluation-worse", "eval", evaluation_worse),
        Rule("length-bias", "eval", length_bias),
        Rule("loss-spike", "train", loss_spike),
        Rule("gradient-clipped", "train", gradient_clipped),
        Rule("throughput-halved", "train", throughput_halved),
    ]


class Watchdogs:
    """The watchdogs of a run. ``plan``: its plan, as plan.json has it or as plain values; may be empty."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self.history = MetricHistory(Setup.of(plan))
        self.rules = _rules()

    def add(self, line: Mapping[str, Any]) -> list[Finding]:
        """Add a line of metrics.jsonl; what begins with it."""
        kind = self.history.add(line)
        if kind is None:
            return []
        messages = ((rule.code, rule.apply(self.history, kind)) for rule in self.rules)
        return [Finding(code, int(line["step"]), message) for code, message in messages if message is not None]


def check(lines: Iterable[Mapping[str, Any]], plan: Mapping[str, Any]) -> list[Finding]:
    """All findings in the lines of metrics.jsonl of a run, in their order."""
    watchdogs = Watchdogs(plan)
    return [finding for line in lines for finding in watchdogs.add(line)]
