"""Data report: counts of rows read, kept, dropped and truncated; data_report.json and its text form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from orpo_cli.data.filters import REASONS, REMEDIES
from orpo_cli.data.pair import RowRejected
from orpo_cli.errors import Problem

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

NEARLY_ALL, MIN_PAIRS = 0.9, 5  # of the pairs have a bare number as completion, in at least so many pairs: a warning
EXAMPLES = 3  # rows named for each reason
FEW_HELD_OUT = 20  # pairs: the 95% interval of an accuracy of 0.5 is 0.4 wide

SEVERAL_PAIRS = {
    "pairs_of_turns": "more pairs from rows with several turns",
    "pairs_of_rejected": "more pairs from rows with several rejected answers",
    "turns_unused": "earlier turns with a rejected answer are not used; dataset.turns: all makes a pair of each",
    "turns_below_others": "turns after a reply that is not the best one are not used: their history has a rejected answer",
    "rejected_unused": "further rejected answers are not used; dataset.rejected: all makes a pair of each",
}
NOTES = {
    "prompt_stored_twice": "repeat the prompt in the completions; it is trained once",
    "rows_gathered": "were grouped with other rows of the same prompt: each group forms a pair",
    "chosen_is_number": "have a bare number as chosen completion: probably `columns:` maps the wrong column to it",
    "rejected_is_number": "have a bare number as rejected completion: probably `columns:` maps the wrong column to it",
    "score_below": "have a lower score for the chosen completion than for a rejected one; `dataset.train.min_score_margin` drops such pairs",
    "score_equal": "have the same score for both completions; `dataset.train.min_score_margin` drops such pairs",
    "prompt_column_unused": "have their prompt within the completions; a different prompt column is ignored",
    "text_as_messages": "of text are trained as a user and an assistant message; `format: text` trains them without the chat template",
    "answer_space_removed": "of text have a space before an answer, which is removed: the template writes what is before an answer",
    "text_without_template": "of text are trained as they are: the model has no chat template",
    "text_by_format": "of text are trained as they are, without the chat template, as `format: text` says",
    "text_rendered": "of text have the marks of the chat template in them already and are trained as they are",
    "text_without_prompt": "of text have no prompt and are trained as they are, without the chat template, although the model has "
    "one; name the prompt with `columns: {prompt: …}`, or set `format: text`",
    "text_and_messages": "have messages, while other rows of this source are text",
    "system_before_prompt": "have their system text before the prompt, since they are trained without a chat template",
    "tools_not_rendered": "have tools that are not in the text that is trained",
    "message_not_rendered": "have a message before the answer whose text the chat template leaves out or changes",
    "reasoning_trained": "have reasoning in an answer: the chat template writes it, and it is trained",
    "reasoning_removed": "have reasoning in an answer (a field of the message, or text up to </think>) that the chat template does not "
    "write: it is not trained",
    "empty_thinking_trained": "have an answer without reasoning: the chat template writes an empty thinking block before it, which is "
    "trained",
    "earlier_reasoning_removed": "have reasoning in earlier turns that the chat template leaves out of the prompt",
    "answer_text_removed": "have text of an answer that the chat template leaves out or changes: it is not trained as the data has it",
    "generation_prompt_ignored": "train the start of the assistant's turn as part of the answer: the chat template ignores "
    "add_generation_prompt",
    "system_column_unused": "have a system message; a different system column is ignored",
    "second_system_column": "have different texts in several system columns; only the first of system, system_prompt and "
    "system_message is used",
    "json_text_messages": "have messages as JSON or Python text, which is parsed",
    "special_token_spelled": "contain a special token as text in a message; it is encoded as ordinary text",
    "generation_prompt_shortened": "end the prompt before the text that the template adds only for generation",
}
WARNINGS = {  # of NOTES
    "chosen_is_number",
    "rejected_is_number",
    "score_below",
    "text_without_prompt",
    "text_and_messages",
    "tools_not_rendered",
    "message_not_rendered",
    "reasoning_removed",
    "answer_text_removed",
    "generation_prompt_ignored",
}


@dataclass
class SourceReport:
    """Counts of one source. ``part`` is train or eval; ``available``: the rows that max_samples drew from."""

    part: str
    path: str
    location: str
    fingerprint: str | None
    split: str
    format: str = ""
    available: int | None = None
    sampling: str = ""  # how rows were drawn, with max_samples
    rows_read: int = 0
    kept: int = 0
    used: int | None = None  # train pairs after the source weight, where it is not 1
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    truncated_prompts: int = 0
    truncated_completions: int = 0
    truncated_rows: list[str] = field(default_factory=list)  # the first ones
    remedies: dict[str, list[str]] = field(default_factory=dict)  # of rows with a remedy of their own, by reason
    notes: Counter[str] = field(default_factory=Counter)
    choice: str = ""  # which answer is the chosen one, where the format decides it
    columns: dict[str, str] = field(default_factory=dict)  # of the recipe: name in orpo-cli → name in the data
    unused_columns: list[str] = field(default_factory=list)

    def drop(self, row: str, rejection: RowRejected, rows: int = 1) -> None:
        """Count a dropped row (or ``rows`` that were grouped into one), and keep the first names of each reason."""
        self.dropped[rejection.reason] += rows
        examples = self.examples.setdefault(rejection.reason, [])
        if len(examples) < EXAMPLES:
            examples.append(f"{row} ({_shorten(rejection.detail)})" if rejection.detail else row)

        remedies = self.remedies.setdefault(rejection.reason, []) if rejection.remedy else []
        if rejection.remedy and rejection.remedy not in remedies and len(remedies) < EXAMPLES:
            remedies.append(rejection.remedy)

    def drop_notes_of_few(self) -> None:
        """Remove the notes of completions that are numbers, unless nearly all are. Called after the last row."""
        for note in ("chosen_is_number", "rejected_is_number"):
            if self.kept < MIN_PAIRS or self.notes[note] < NEARLY_ALL * self.kept:
                del self.notes[note]

    def remedies_of(self, reason: str) -> list[str]:
        """What to do about the dropped rows of a reason."""
        return self.remedies.get(reason) or ([REMEDIES[reason]] if reason in REMEDIES else [])

    def drop_lines(self) -> list[str]:
        """One line per reason, the most frequent first."""
        return [
            f"{count:,} {reason}: {REASONS[reason]}; {', '.join(self.examples[reason])}{', …' * (count > len(self.examples[reason]))}"
            for reason, count in self.dropped.most_common()
        ]

    def warnings(self) -> list[Problem]:
        """A warning about the dropped rows, and one for each note of ``WARNINGS``."""
        found = []
        if self.dropped:
            text = f"{self.dropped.total():,} of {self.rows_read:,} rows are dropped: {'; '.join(self.drop_lines())}."
            remedies = dict.fromkeys(remedy for reason in self.dropped for remedy in self.remedies_of(reason))
            found.append(self._warning("rows-dropped", text, " ".join(remedies)))
        return found + [
            self._warning("doubtful-rows", f"{count:,} rows {NOTES[note]}")
            for note, count in self.notes.items()
            if note in WARNINGS
        ]

    def _warning(self, code: str, text: str, remedy: str = "") -> Problem:
        return Problem(
            code, f"{self.location}: {text}", f"dataset.{self.part}", remedy=remedy or None, severity="warning"
        )

    def as_dict(self) -> dict[str, Any]:
        """Counts as a JSON object."""
        return {**self.__dict__, "dropped": dict(self.dropped.most_common()), "notes": dict(self.notes)}

    @classmethod
    def from_dict(cls, counts: Mapping[str, Any]) -> SourceReport:
        """Report from the object of ``as_dict``."""
        return cls(**{**counts, "dropped": Counter(counts["dropped"]), "notes": Counter(counts["notes"])})

    def lines(self) -> list[str]:
        """Counts as lines of text."""
        read = f"{self.rows_read:,} rows read"
        if self.available is not None and self.available > self.rows_read:
            read = f"{self.rows_read:,} of {self.available:,} rows read ({self.sampling}, max_samples)"
        text = [f"{self.part}: {self.path} [{self.split}], {self.format}: {read}, {self.kept:,} kept"]
        if self.choice:
            text.append(f"  chosen: {self.choice}")
        if self.columns:
            text.append(f"  columns: {', '.join(f'{name} is {column}' for name, column in self.columns.items())}")
        for (reason, _), line in zip(self.dropped.most_common(), self.drop_lines(), strict=True):
            text += [f"  dropped {line}", *(f"    {remedy}" for remedy in self.remedies.get(reason, ()))]
        if self.used is not None:
            text.append(f"  {self.used:,} train pairs after its weight")
        if self.truncated_prompts or self.truncated_completions:
            example = f", for example of {', '.join(self.truncated_rows)}" if self.truncated_rows else ""
            text.append(
                f"  truncated {self.truncated_prompts:,} prompts and {self.truncated_completions:,} completions (a pair may have several){example}"
            )
        text += [f"  {line}" for line in note_lines(self.notes)]
        if self.unused_columns:
            text.append(f"  unused columns: {', '.join(self.unused_columns)}")
        return text


def note_lines(notes: Counter[str]) -> list[str]:
    """One line per note, for `orpo data`, `orpo plan` and a run; those of ``WARNINGS`` start with "warning:"."""
    several = [f"{notes[name]:,} {line}" for name, line in SEVERAL_PAIRS.items() if notes[name]]
    return several + [
        f"{'warning: ' if note in WARNINGS else ''}{count:,} rows {NOTES[note]}"
        for note, count in notes.items()
        if note in NOTES
    ]


@dataclass
class DataReport:
    """Counts of all sources. Lengths are tokens of the train and eval pairs after truncation."""

    max_length: int
    max_prompt_length: int
    truncation_mode: str
    end_of_turn: str
    sources: list[SourceReport] = field(default_factory=list)
    train_pairs: int = 0
    eval_pairs: int = 0
    lengths: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    weights: dict[str, dict[str, float]] = field(default_factory=dict)  # of the pairs of a part, where one is not 1
    fingerprints: dict[str, str] = field(default_factory=dict)
    leaked: dict[str, Any] = field(default_factory=dict)  # train pairs whose prompt occurs in eval

    @property
    def rows_read(self) -> int:
        """Number of rows read from all sources."""
        return sum(source.rows_read for source in self.sources)

    @property
    def kept(self) -> int:
        """Number of pairs kept from all sources."""
        return sum(source.kept for source in self.sources)

    @property
    def dropped(self) -> dict[str, int]:
        """Number of rows dropped from all sources, by reason."""
        return dict(sum((source.dropped for source in self.sources), Counter()).most_common())

    def train_notes(self) -> list[str]:
        """Dropped rows and notes of all train sources together, one line each."""
        sources = [source for source in self.sources if source.part == "train"]
        dropped, read = sum(source.dropped.total() for source in sources), sum(source.rows_read for source in sources)
        notes = note_lines(sum((source.notes for source in sources), Counter[str]()))
        return [f"{dropped:,} of {read:,} rows are dropped; `orpo data` shows why", *notes] if dropped else notes

    def as_dict(self) -> dict[str, Any]:
        """JSON object of data_report.json: totals, the counts of each source, and the meaning of each reason."""
        return {
            "rows_read": self.rows_read,
            "kept": self.kept,
            "dropped": self.dropped,
            "reasons": {reason: REASONS[reason] for reason in self.dropped},
            "truncated_prompts": sum(source.truncated_prompts for source in self.sources),
            "truncated_completions": sum(source.truncated_completions for source in self.sources),
            **self.__dict__,
            "sources": [source.as_dict() for source in self.sources],
        }

    def lines(self, *, has_advice: bool = True) -> list[str]:
        """Report as lines of text for a terminal. ``has_advice``: whether it says that few pairs are held out."""
        text = [line for source in self.sources for line in source.lines()]
        if self.leaked and not self.leaked["pairs"]:
            text.append("no leakage: no eval prompt occurs in train")
        elif self.leaked and not self.leaked["left_out"]:
            text.append(f"leakage: {self.leakage()}; dataset.rules.leaked: true drops these pairs")
        for part, stats in self.lengths.items():
            each = (
                f"{name} {row['mean']:.0f} mean, {row['p95']:.0f} p95, {row['max']:.0f} max"
                for name, row in stats.items()
            )
            text.append(f"{part} tokens: {'; '.join(each)}")
        for part, weights in self.weights.items():
            text.append(
                f"{part} pairs are weighted in the loss: {weights['min']:g} min, {weights['mean']:.3g} mean, {weights['max']:g} "
                f"max; as informative as {weights['effective_pairs']:,.0f} pairs of equal weight"
            )
        text.append(
            f"{self.train_pairs:,} train pairs, {self.eval_pairs:,} eval pairs; completions end with {self.end_of_turn}"
        )
        if has_advice and (few := self.few_held_out()):
            text.append(f"{few} (dataset.eval)")
        return text

    def leakage(self) -> str:
        """Which training pairs have a prompt that is held out."""
        return (
            f"the prompts of {self.leaked['pairs']:,} train pairs occur in eval: {', '.join(self.leaked['examples'])}"
        )

    def few_held_out(self) -> str | None:
        """What few held-out pairs mean; None where there are enough, or none at all."""
        if not 0 < self.eval_pairs < FEW_HELD_OUT:
            return None
        return f"only {self.eval_pairs} eval pairs: the 95% interval of an accuracy is wide; hold more pairs out if you have them"


def length_stats(lengths: ArrayLike, percentiles: Sequence[int] = (50, 95)) -> dict[str, float]:
    """Mean, nearest-rank percentiles and maximum of lengths (tokens)."""
    values = np.asarray(lengths)
    if not values.size:
        return {}
    ranks = np.percentile(values, percentiles, method="inverted_cdf")
    return {
        "mean": round(float(values.mean()), 1),
        **{f"p{percentile}": int(value) for percentile, value in zip(percentiles, ranks, strict=True)},
        "max": int(values.max()),
    }


def _shorten(detail: str, limit: int = 120) -> str:
    line = " ".join(detail.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
