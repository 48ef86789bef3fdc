"""Data audit: statistics of the train and eval pairs, computed from token counts only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from orpo_cli.data.dedup_and_split import find_duplicates
from orpo_cli.data.report import DataReport, length_stats
from orpo_cli.data.table import COMPLETIONS, PARTS, PairTable
from orpo_cli.errors import Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from orpo_cli.data.table import Numbers

PERCENTILES = (5, 25, 50, 75, 90, 95, 99)
MAX_LENGTHS = (256, 512, 1024, 2048, 4096, 8192)  # besides the max_length of the recipe
BINS = 20
LENGTH_BIAS_THRESHOLD = 0.1  # correlation of completion length and preference: from here on the data teaches length
STRONG_LENGTH_BIAS = 0.3  # from here on, the data should be changed before it is trained
MIN_PAIRS_FOR_BIAS = 100  # in fewer pairs, a correlation of 0.1 is often chance: its standard error is 0.07
TRUNCATION_THRESHOLD = 0.2  # fraction of truncated pairs from which the audit warns
FEW_TRUNCATED = 0.05  # fraction that the recommended max_length truncates at most
LENGTH_STEP = 64  # tokens; a recommended max_length is a multiple


@dataclass(frozen=True)
class LengthBias:
    """Length bias: relation of preference and completion length (tokens before truncation).

    ``correlation``: of "is chosen" with the length, over all completions; 0 where length does not predict preference.
    """

    chosen_longer: float  # fraction of pairs
    rejected_longer: float
    mean_difference: float  # chosen minus rejected, tokens
    correlation: float
    pairs: int

    @property
    def warning(self) -> str | None:
        """Warning for a strong bias, else None. A few pairs are no evidence."""
        if self.pairs < MIN_PAIRS_FOR_BIAS or abs(self.correlation) < LENGTH_BIAS_THRESHOLD:
            return None
        longer, difference = "longer" if self.correlation > 0 else "shorter", abs(self.mean_difference)
        return (
            f"chosen completions are {longer} by {difference:.0f} tokens on average before truncation: the model may learn length instead of quality (chosen is "
            f"longer in {self.chosen_longer:.0%}, shorter in {self.rejected_longer:.0%} of the pairs; correlation of length and preference "
            f"{self.correlation:+.2f})"
        )

    @property
    def remedy(self) -> str:
        """What to do about ``warning``."""
        if abs(self.correlation) < STRONG_LENGTH_BIAS:
            return "Train, and look at the accuracy by length that `orpo eval` shows."
        rare = "shorter" if self.correlation > 0 else "longer"
        return f"Add pairs whose chosen completion is {rare}, or drop a part of the others."


@dataclass(frozen=True)
class Truncation:
    """Pairs that max_length truncates. ``few`` and ``none``: the maximum lengths that truncate at most 5% of them, and no pair.

    ``completions``: the fraction whose completions lose their end; of the others, prompts are truncated.
    """

    max_length: int
    fraction: float
    few: int
    none: int
    completions: float

    @property
    def warning(self) -> str | None:
        """Warning where more than a fifth of the pairs are truncated, with the remedy; else None."""
        if self.fraction <= TRUNCATION_THRESHOLD:
            return None
        remedy = f"training.max_length={self.none} truncates none of them"
        if self.few < self.none:
            remedy = f"training.max_length={self.few} truncates at most {FEW_TRUNCATED:.0%} of them, {self.none} none"
        why = "in training, a completion that loses its end teaches the model not to stop"
        if not self.completions:
            why = "only prompts are, so the answers are trained without a part of what they answer"
        return f"{self.fraction:.0%} of the pairs are longer than max_length {self.max_length:,} and are truncated: {why}. {remedy}"


@dataclass(frozen=True)
class Audit:
    """Statistics of one part, train or eval. Lengths are tokens."""

    pairs: int
    lengths: dict[str, dict[str, float]]  # prompt, chosen, rejected, sequence (prompt and longer completion)
    histogram: dict[
        str, list[int]
    ]  # edges (one more than counts) and counts of the sequences before truncation; a bin ends below its second edge
    cut: dict[int, float]  # max_length → fraction of pairs that are longer
    truncation: Truncation
    length_bias: LengthBias
    same_prompt: int  # pairs whose prompt occurs in an earlier pair
    tokens: int  # each prompt once, both completions
    tokens_of_two_passes: int  # each prompt with each completion, as TRL computes them

    def problems(self, part: str) -> list[Problem]:
        """Warnings about these pairs, of the part train or eval."""
        return _problems(part, self.truncation, self.length_bias)

    def as_dict(self) -> dict[str, Any]:
        """Statistics as a JSON object."""
        return {
            **asdict(self),
            "truncation": {**asdict(self.truncation), "warning": self.truncation.warning},
            "cut": {str(length): fraction for length, fraction in self.cut.items()},
            "length_bias": {**asdict(self.length_bias), "warning": self.length_bias.warning},
        }


def audit(table: PairTable, max_length: int) -> Audit:
    """Statistics of ``table``, whose pairs were truncated to ``max_length``."""
    prompt, chosen, rejected = (table.token_counts(part) for part in PARTS)
    full_prompt, full_chosen, full_rejected = (table.full_token_counts(part) for part in PARTS)
    sequences = full_prompt + np.maximum(full_chosen, full_rejected)
    longer = np.maximum(chosen, rejected)
    lengths = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "sequence": prompt + longer}
    edges = _bin_edges(int(sequences.min()), int(sequences.max()))
    return Audit(
        pairs=len(table),
        lengths={name: length_stats(tokens, PERCENTILES) for name, tokens in lengths.items()},
        histogram={"edges": edges.tolist(), "counts": np.histogram(sequences, bins=edges)[0].tolist()},
        cut={length: float((sequences > length).mean()) for length in sorted({*MAX_LENGTHS, max_length})},
        truncation=_truncation(table, max_length),
        length_bias=length_bias(full_chosen, full_rejected),
        same_prompt=len(find_duplicates(table, "prompt_key")[0]),
        tokens=int((prompt + chosen + rejected).sum()),
        tokens_of_two_passes=int((2 * prompt + chosen + rejected).sum()),
    )


def data_warnings(tables: Mapping[str, PairTable], report: DataReport) -> list[Problem]:
    """What the report and the audits of ``tables`` (by part) warn of."""
    found = [warning for source in report.sources for warning in source.warnings()]
    for part, table in tables.items():
        cut = _truncation(table, report.max_length)
        found += _problems(part, cut, length_bias(*(table.full_token_counts(name) for name in COMPLETIONS)))
    if report.leaked and report.leaked["pairs"] and not report.leaked["left_out"]:
        message, remedy = f"{report.leakage()}.", "dataset.rules.leaked: true drops these pairs."
        found.append(Problem("prompts-held-out", message, "dataset.train", remedy=remedy, severity="warning"))
    if few := report.few_held_out():
        found.append(Problem("few-held-out-pairs", few, "dataset.eval", severity="warning"))
    return found


def _problems(part: str, cut: Truncation, bias: LengthBias) -> list[Problem]:
    where, found = f"dataset.{part}", []
    if cut.warning:
        found.append(Problem("pairs-truncated", cut.warning, where, severity="warning"))
    if bias.warning:
        found.append(Problem("length-predicts-preference", bias.warning, where, remedy=bias.remedy, severity="warning"))
    return found


def _bin_edges(shortest: int, longest: int) -> Numbers:
    """Edges of at most ``BINS`` bins of the same number of whole tokens. A bin has the lengths from its edge to below the next one."""
    width = -(-(longest - shortest + 1) // BINS)
    return np.arange(shortest, longest + width + 1, width)


def _truncation(table: PairTable, max_length: int) -> Truncation:
    full = {part: table.full_token_counts(part) for part in PARTS}
    sequences = full["prompt"] + np.maximum(full["chosen"], full["rejected"])
    return truncation(sequences, max_length, [full[part] > table.token_counts(part) for part in COMPLETIONS])


def truncation(sequences: Numbers, max_length: int, cut: Sequence[NDArray[np.bool_]]) -> Truncation:
    """Truncation of sequences with these lengths, in tokens. ``cut``: which chosen and which rejected completions lose their end."""
    few, longest = np.percentile(sequences, [100 * (1 - FEW_TRUNCATED), 100], method="inverted_cdf")
    few, none = (int(np.ceil(length / LENGTH_STEP)) * LENGTH_STEP for length in (few, longest))
    fraction, completions = float((sequences > max_length).mean()), float(np.any(cut, axis=0).mean())
    return Truncation(max_length, fraction, few, none, completions)


def length_bias(chosen: Numbers, rejected: Numbers) -> LengthBias:
    """Length bias of pairs with these completion lengths."""
    lengths = np.concatenate([chosen, rejected]).astype(np.float64)
    preferred = np.repeat([1.0, 0.0], len(chosen))
    varies = lengths.std() > 0
    return LengthBias(
        chosen_longer=float((chosen > rejected).mean()),
        rejected_longer=float((chosen < rejected).mean()),
        mean_difference=round(float((chosen - rejected).mean()), 1),
        correlation=round(float(np.corrcoef(lengths, preferred)[0, 1]), 3) if varies else 0.0,
        pairs=len(chosen),
    )
