"""Statistics of the claims: paired differences of two conditions on the same held-out pairs, as a mean over seeds.

Every interval is a 95% paired bootstrap over the held-out pairs, of each pair's value averaged over the seeds. It says how
much the choice of the pairs matters; the spread over the seeds is shown beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from benchmarks.paper.bootstrap import bootstrap_interval
from benchmarks.paper.runs import PairFile, Results, Run
from orpo_cli.statistics import Interval, mcnemar_p_value

Values = list[float]
Quantity = Callable[[dict[str, Any]], Values]


def chosen(evaluation: dict[str, Any]) -> Values:
    """Log-probability per token of each chosen completion."""
    return list(evaluation["chosen"])


def rejected(evaluation: dict[str, Any]) -> Values:
    """Log-probability per token of each rejected completion."""
    return list(evaluation["rejected"])


def margin(evaluation: dict[str, Any]) -> Values:
    """Chosen minus rejected, for each pair."""
    return [a - b for a, b in zip(evaluation["chosen"], evaluation["rejected"], strict=True)]


def accuracy(evaluation: dict[str, Any]) -> Values:
    """1 where the chosen completion has the higher log-probability per token."""
    return [float(each > 0) for each in margin(evaluation)]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and held-out pairs."""

    value: float
    interval: Interval | None
    by_seed: tuple[float, ...]

    @property
    def sign(self) -> int:
        """1 or -1 where the interval is above or below 0, else 0."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return 0
        return 1 if self.value > 0 else -1

    def text(self, signed: bool = False) -> str:
        """Value, interval, and the values of the seeds where there are several."""
        form = "+.3f" if signed else ".3f"
        shown = "" if self.interval is None else f" [{self.interval[0]:{form}}, {self.interval[1]:{form}}]"
        return f"{self.value:{form}}{shown}"


@dataclass(frozen=True)
class Campaign:
    """The finished runs of one data set."""

    pairs: PairFile
    records: dict[tuple[str, int], dict[str, Any]]  # (condition, seed)

    @classmethod
    def read(cls, pairs: PairFile, runs: Iterable[Run], results: Results) -> Campaign:
        """Read what is finished."""
        of_pairs = [run for run in runs if run.pairs == pairs]
        found = {(run.condition, run.seed): results.read(run.name, run.settings()) for run in of_pairs}
        return cls(pairs, {key: record for key, record in found.items() if record is not None})

    def seeds(self, *conditions: str) -> list[int]:
        """The seeds of which all ``conditions`` are finished; the base has no seed."""
        trained = [each for each in conditions if each != "base"]
        seeds = sorted({seed for condition, seed in self.records if condition != "base"})
        return [seed for seed in seeds if all((each, seed) in self.records for each in trained)] if trained else [0]

    def evaluation(self, condition: str, seed: int, number: int = -1) -> dict[str, Any]:
        """An evaluation of a run, by default the last one."""
        key = (condition, 0 if condition == "base" else seed)
        found: dict[str, Any] = self.records[key]["evaluations"][number]
        return found

    def estimate(self, quantity: Quantity, condition: str, number: int = -1) -> Estimate | None:
        """A quantity of one condition."""
        return self._estimate([quantity(self.evaluation(condition, seed, number)) for seed in self.seeds(condition)])

    def difference(self, quantity: Quantity, condition: str, reference: str) -> Estimate | None:
        """A quantity of one condition minus that of another, pair by pair and seed by seed."""
        if ("base", 0) not in self.records and "base" in (condition, reference):
            return None
        return self._estimate(
            [
                [
                    a - b
                    for a, b in zip(
                        *(quantity(self.evaluation(each, seed)) for each in (condition, reference)), strict=True
                    )
                ]
                for seed in self.seeds(condition, reference)
            ]
        )

    def mcnemar(self, condition: str, reference: str) -> list[float]:
        """Exact p-value for each seed that both conditions are equally accurate."""
        found = []
        for seed in self.seeds(condition, reference):
            pairs = list(zip(*(accuracy(self.evaluation(each, seed)) for each in (condition, reference)), strict=True))
            found.append(mcnemar_p_value(pairs.count((1.0, 0.0)), pairs.count((0.0, 1.0))))
        return found

    def curve(self, name: str, condition: str, window: int = 4) -> list[tuple[float, float]]:
        """A logged metric of the training batches: mean over seeds, then over the last ``window`` steps."""
        curves = [self.records[condition, seed]["curves"][name] for seed in self.seeds(condition)]
        means = [fmean(values) for values in zip(*curves, strict=True)]
        return [(float(at + 1), fmean(means[max(0, at + 1 - window) : at + 1])) for at in range(len(means))]

    def _estimate(self, by_seed: list[Values]) -> Estimate | None:
        if not by_seed:
            return None
        means = [fmean(values) for values in zip(*by_seed, strict=True)]
        return Estimate(fmean(means), bootstrap_interval(means), tuple(fmean(values) for values in by_seed))
