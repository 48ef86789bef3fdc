"""Scores of held-out pairs by name, as eval_scores.jsonl and evaluation.json have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Any, NamedTuple

from orpo_cli.json_files import is_number
from orpo_cli.statistics import PairedComparison, compare_margins

MAX_LOGP = 1e6  # nats per token; more is a damaged file


class PairScore(NamedTuple):
    """Mean log-probabilities per token of both completions, in nats, and the weight of the pair in all means."""

    chosen: float
    rejected: float
    weight: float = 1.0

    @property
    def margin(self) -> float:
        """Chosen minus rejected. The margin that TRL logs is this one times beta."""
        return self.chosen - self.rejected


Scores = Mapping[str, PairScore]  # by the name of the pair


def scores_of_evaluation(record: Mapping[str, Any]) -> Scores:
    """The scores in a line of eval_scores.jsonl, as far as it can be read."""
    columns = [record.get(name) for name in ("pairs", "chosen", "rejected")]
    names, chosen, rejected = (column if isinstance(column, list) else [] for column in columns)
    weights = record.get("weights")
    return scores_by_name(
        zip(map(str, names), chosen, rejected, weights if isinstance(weights, list) else repeat(1.0), strict=False)
    )


def scores_by_name(scores: Iterable[tuple[str, Any, Any, Any]]) -> Scores:
    """Chosen, rejected and weight by the name of the pair; a name that is used again gets a number (``train.jsonl:7#2``)."""
    found: dict[str, PairScore] = {}
    seen: Counter[str] = Counter()
    for name, *numbers in scores:
        seen[name] += 1
        if all(is_number(each) and abs(each) < MAX_LOGP for each in numbers) and numbers[2] > 0:
            found[name if seen[name] == 1 else f"{name}#{seen[name]}"] = PairScore(*map(float, numbers))
    return found


def compare_scores(first: Scores, second: Scores) -> PairedComparison | None:
    """The second model against the first one, on the pairs of both; None where they have no scores of the same pairs."""
    common = [name for name in first if name in second]
    if not common:
        return None
    before, after = ([scores[name].margin for name in common] for scores in (first, second))
    return compare_margins(before, after, [second[name].weight for name in common])
