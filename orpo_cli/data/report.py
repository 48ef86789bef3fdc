"""What was read, kept, dropped and cut: data_report.json, and the same in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from orpo_cli.data.filters import REASONS
from orpo_cli.data.pair import RowRejected

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

EXAMPLES = 3  # rows named for each reason

NOTES = {
    "prompt_stored_twice": "hold the prompt in the answers too; it is trained once",
    "rows_gathered": "were gathered with others into one pair",
    "prompt_column_unused": "have their prompt within the answers; the prompt column says something else and is not used",
    "special_token_spelled": "spell a special token in a message; it is read as ordinary text",
    "generation_prompt_shortened": "end the prompt before what the template adds only for generation",
}


@dataclass
class SourceReport:
    """The figures of one source. ``part`` is train or eval; ``available`` the rows that max_samples drew from."""

    part: str
    path: str
    location: str
    fingerprint: str | None
    split: str
    format: str = ""
    available: int | None = None
    rows_read: int = 0
    kept: int = 0
    used: int | None = None  # pairs trained on, where a weight makes them more or fewer
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    truncated_prompts: int = 0
    truncated_completions: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    unused_columns: list[str] = field(default_factory=list)

    def drop(self, row: str, why: RowRejected, rows: int = 1) -> None:
        """Count a row (or ``rows`` that were gathered into one) that is not trained on, and name the first of each reason."""
        self.dropped[why.reason] += rows
        examples = self.examples.setdefault(why.reason, [])
        if len(examples) < EXAMPLES:
            examples.append(f"{row} ({_shorten(why.detail)})" if why.detail else row)

    def drop_lines(self) -> list[str]:
        """One line a reason, the most frequent first."""
        return [
            f"{count:,} {reason}: {REASONS[reason]}; {', '.join(self.examples[reason])}"
            for reason, count in self.dropped.most_common()
        ]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**self.__dict__, "dropped": dict(self.dropped.most_common()), "notes": dict(self.notes)}

    @classmethod
    def from_dict(cls, figures: Mapping[str, Any]) -> SourceReport:
        """The report that ``as_dict`` gave."""
        return cls(**{**figures, "dropped": Counter(figures["dropped"]), "notes": Counter(figures["notes"])})

    def lines(self) -> list[str]:
        """The figures as text."""
        drawn = "" if self.available is None else f" of {self.available:,}, drawn before any rule"
        text = [
            f"{self.part}: {self.path} [{self.split}], {self.format}: {self.rows_read:,} rows read{drawn}, {self.kept:,} kept"
        ]
        text += [f"  dropped {line}" for line in self.drop_lines()]
        if self.used is not None:
            text.append(f"  used {self.used:,} times, by its weight")
        if self.truncated_prompts or self.truncated_completions:
            text.append(
                f"  cut {self.truncated_prompts:,} prompts and {self.truncated_completions:,} answers to the lengths"
            )
        text += [f"  {count:,} rows {NOTES[note]}" for note, count in self.notes.items()]
        if self.unused_columns:
            text.append(f"  columns not used: {', '.join(self.unused_columns)}")
        return text


@dataclass
class DataReport:
    """The figures of all sources. Lengths are tokens of train and of eval pairs as they are trained on, after cutting."""

    max_length: int
    max_prompt_length: int
    truncation_mode: str
    end_of_turn: str
    sources: list[SourceReport] = field(default_factory=list)
    train_pairs: int = 0
    eval_pairs: int = 0
    lengths: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    leaked: dict[str, Any] = field(default_factory=dict)  # training pairs whose prompt is held out, too

    @property
    def rows_read(self) -> int:
        """Rows read from all sources."""
        return sum(source.rows_read for source in self.sources)

    @property
    def kept(self) -> int:
        """Pairs kept of all sources."""
        return sum(source.kept for source in self.sources)

    @property
    def dropped(self) -> dict[str, int]:
        """Rows dropped from all sources, by reason."""
        total: Counter[str] = Counter()
        for source in self.sources:
            total.update(source.dropped)
        return dict(total.most_common())

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; totals beside what each source says, and what each reason means."""
        dropped = self.dropped
        return {
            "train_pairs": self.train_pairs,
            "eval_pairs": self.eval_pairs,
            "rows_read": self.rows_read,
            "kept": self.kept,
            "dropped": dropped,
            "reasons": {reason: REASONS[reason] for reason in dropped},
            "truncated_prompts": sum(source.truncated_prompts for source in self.sources),
            "truncated_completions": sum(source.truncated_completions for source in self.sources),
            "max_length": self.max_length,
            "max_prompt_length": self.max_prompt_length,
            "truncation_mode": self.truncation_mode,
            "end_of_turn": self.end_of_turn,
            "lengths": self.lengths,
            "fingerprints": self.fingerprints,
            "leaked": self.leaked,
            "sources": [source.as_dict() for source in self.sources],
        }

    def lines(self) -> list[str]:
        """The report in words, for a terminal."""
        text = [line for source in self.sources for line in source.lines()]
        if self.leaked and not self.leaked["pairs"]:
            text.append("no pair is trained on whose prompt is held out, too")
        elif self.leaked and not self.leaked["left_out"]:
            text.append(
                f"{self.leaked['pairs']:,} pairs are trained on whose prompt is held out, too: "
                f"{', '.join(self.leaked['examples'])}; dataset.rules.leaked: true leaves them out"
            )
        for part, figures in self.lengths.items():
            each = (
                f"{name} {row['mean']:.0f} mean, {row['p95']:.0f} p95, {row['max']:.0f} max"
                for name, row in figures.items()
            )
            text.append(f"{part} tokens: {'; '.join(each)}")
        text.append(
            f"{self.train_pairs:,} pairs to train on, {self.eval_pairs:,} held out; answers end in {self.end_of_turn}"
        )
        return text


def length_stats(lengths: ArrayLike) -> dict[str, float]:
    """Mean and nearest-rank percentiles of some lengths (tokens)."""
    values = np.asarray(lengths)
    if not values.size:
        return {}
    p50, p95 = np.percentile(values, (50, 95), method="inverted_cdf")
    return {"mean": round(float(values.mean()), 1), "p50": int(p50), "p95": int(p95), "max": int(values.max())}


def _shorten(detail: str, limit: int = 120) -> str:
    line = " ".join(detail.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
