"""From the recipe's dataset section to pairs that a trainer can take.

``SourceReader`` prepares each source; here they are put together, freed of duplicates, and divided into what is trained on and
what is held out. Whatever is not trained on is counted under a reason, in the report; a whole that leaves nothing is an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from orpo_cli.data import dedup_and_split
from orpo_cli.data.filters import REMEDIES
from orpo_cli.data.pair import RowRejected
from orpo_cli.data.report import EXAMPLES, DataReport, SourceReport
from orpo_cli.data.source_reader import Note, SourceReader
from orpo_cli.data.sources.files import is_data_file
from orpo_cli.data.table import COMPLETIONS, PairTable
from orpo_cli.errors import DataError, UsageError
from orpo_cli.recipe.schema import DatasetSection, EvalSplit, Source

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

DUPLICATE_KEYS = {"duplicate": "digest", "duplicate_prompt": "prompt_key"}  # rule → what is the same


@dataclass(frozen=True)
class PreparedData:
    """Pairs to train on and held-out pairs (None where the recipe asks for none), with what became of every row."""

    train: Dataset
    eval: Dataset | None
    report: DataReport

    def shortest(self, count: int) -> PreparedData:
        """Only the ``count`` shortest pairs of each part; the report stays that of all."""
        return PreparedData(_shortest(self.train, count), self.eval and _shortest(self.eval, count), self.report)


def _shortest(pairs: Dataset, count: int) -> Dataset:
    lengths = pairs["length"]
    return pairs.select(sorted(sorted(range(len(pairs)), key=lambda position: lengths[position])[:count]))


@dataclass(frozen=True)
class PreparedEval:
    """The held-out pairs alone, with what became of every row that was read for them."""

    eval: Dataset
    report: DataReport


@dataclass(frozen=True)
class PairTables:
    """The tables behind ``PreparedData``."""

    train: PairTable
    eval: PairTable | None
    report: DataReport


def prepare(
    dataset: DatasetSection,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    max_prompt_length: int,
    note: Note,
    pairs_needed: int | None = None,
) -> PreparedData:
    """Read, check and tokenize the pairs that a recipe asks for; ``PairTable`` says which columns they have.

    ``max_length`` and ``max_prompt_length`` are tokens; streamed sources are read until there are ``pairs_needed`` pairs; ``note``
    is told what is going on. Raises DataError where a source cannot be read or no pair is left, HubError where the hub
    refuses or is silent, UsageError where the tokenizer has no chat template for conversations.
    """
    parts = prepare_tables(
        dataset,
        tokenizer,
        max_length=max_length,
        max_prompt_length=max_prompt_length,
        note=note,
        pairs_needed=pairs_needed,
    )
    return PreparedData(parts.train.dataset(), parts.eval.dataset() if parts.eval is not None else None, parts.report)


def prepare_tables(
    dataset: DatasetSection,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    max_prompt_length: int,
    note: Note,
    pairs_needed: int | None = None,
) -> PairTables:
    """``prepare``, as tables."""
    work = _DatasetBuilder(dataset, SourceReader(dataset, tokenizer, max_length, max_prompt_length, note), pairs_needed)
    train = work.read_table("train", dataset.train)
    held: PairTable | None = None
    if isinstance(dataset.eval, EvalSplit):
        train, held = dedup_and_split.split_train_eval(train, dataset.eval, dataset.shuffle_seed)
    elif dataset.eval is not None:
        held = work.read_table("eval", dataset.eval)
    if held is not None:
        train = work.drop_leaked(train, held)
    return PairTables(
        work.record("train", work.apply_weights(train)),
        work.record("eval", held) if held is not None else None,
        work.report,
    )


def prepare_eval(
    dataset: DatasetSection,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    max_prompt_length: int,
    note: Note,
    pairs_needed: int | None = None,
) -> PreparedEval:
    """The held-out pairs only: the same that ``prepare`` holds out with the same arguments. Raises as ``prepare`` does.

    Where they are cut from the training pairs, those are read too, since the cut depends on them.
    """
    if dataset.eval is None:
        raise UsageError(
            "the recipe holds no pairs out.", remedy="Set dataset.eval to a source, or to {test_size: 0.05}."
        )
    work = _DatasetBuilder(dataset, SourceReader(dataset, tokenizer, max_length, max_prompt_length, note), pairs_needed)
    if isinstance(dataset.eval, EvalSplit):
        held = dedup_and_split.split_train_eval(
            work.read_table("train", dataset.train), dataset.eval, dataset.shuffle_seed
        )[1]
    else:
        held = work.read_table("eval", dataset.eval)
    return PreparedEval(work.record("eval", held).dataset(), work.report)


class _DatasetBuilder:
    """Puts the sources of a recipe together and keeps the report."""

    def __init__(self, dataset: DatasetSection, reader: SourceReader, pairs_needed: int | None) -> None:
        self.dataset = dataset
        self.reader = reader
        self.pairs_needed = pairs_needed
        self.report = DataReport(
            reader.max_length,
            reader.max_prompt_length,
            dataset.truncation_mode,
            end_of_turn=reader.renderer.end_tokens[0],
        )

    def read_table(self, part: str, sources: list[Source]) -> PairTable:
        """The kept pairs of ``sources``, in their order, without duplicates. Raises DataError where none is left."""
        labels = _row_labels([*self.dataset.train, *(self.dataset.eval if isinstance(self.dataset.eval, list) else [])])
        read = [
            self.reader.read(
                part, source, labels[source.path], self._pairs_needed_of(source, sources) if part == "train" else None
            )
            for source in sources
        ]
        reports = [report for _, report in read]
        self.report.sources += reports
        table = self._drop_duplicates(PairTable([file for file, _ in read]), reports)
        if not len(table):
            raise self._no_pairs_error(part)
        return table

    def _drop_duplicates(self, table: PairTable, reports: list[SourceReport]) -> PairTable:
        for rule, column in DUPLICATE_KEYS.items():
            if getattr(self.dataset.rules, rule) and (again := dict(dedup_and_split.find_duplicates(table, column))):
                names = table.row_names()
                whys = [RowRejected(rule, f"as {names[first]}") for first in again.values()]
                table = _drop_pairs(table, list(again), whys, reports)
        return table

    def drop_leaked(self, train: PairTable, held_out: PairTable) -> PairTable:
        """``train`` with the prompts that are held out, too, counted, and left out where the rule ``leaked`` is on."""
        both = dedup_and_split.find_leaked(train, held_out)
        names = train.select(both[:EXAMPLES]).row_names()
        self.report.leaked = {"pairs": len(both), "examples": names, "left_out": self.dataset.rules.leaked}
        if not (self.dataset.rules.leaked and len(both)):
            return train
        left = _drop_pairs(train, both.tolist(), [RowRejected("leaked")] * len(both), self.report.sources)
        if not len(left):
            raise DataError(
                "every training pair has a prompt that is held out, too.",
                remedy="Hold out other prompts, or set dataset.rules.leaked to false.",
            )
        return left

    def apply_weights(self, train: PairTable) -> PairTable:
        """``train`` with every pair as often as the weight of its source says; of a streamed source that is done already."""
        weights = [1.0 if source.streaming else source.weight for source in self.dataset.train]
        if all(weight == 1.0 for weight in weights):
            return train
        used = dedup_and_split.apply_weights(train, train.source_indices(), weights, self.dataset.shuffle_seed)
        counts = np.bincount(used.source_indices(), minlength=len(weights))
        for report, count in zip(self.report.sources, counts, strict=False):  # train's sources come first
            report.used = int(count)
        return used

    def record(self, part: str, table: PairTable) -> PairTable:
        """``table``, entered in the report as train or eval."""
        if part == "train":
            self.report.train_pairs = len(table)
        else:
            self.report.eval_pairs = len(table)
        self.report.lengths[part] = table.length_stats()
        self.report.fingerprints[part] = table.fingerprint()
        return table

    def _pairs_needed_of(self, source: Source, sources: list[Source]) -> int | None:
        """The pairs that a streamed source has to give: its share, by weight, of what training takes."""
        if self.pairs_needed is None:
            return None
        held = self.dataset.eval.test_size if isinstance(self.dataset.eval, EvalSplit) else 0
        needed = self.pairs_needed / (1 - held) if isinstance(held, float) else self.pairs_needed + held
        return math.ceil(needed * source.weight / sum(each.weight for each in sources))

    def _no_pairs_error(self, part: str) -> DataError:
        sources = [source for source in self.report.sources if source.part == part]
        read = sum(source.rows_read for source in sources)
        lines = [f"{source.location}: {line}" for source in sources for line in source.drop_lines()]
        reasons = dict.fromkeys(reason for source in sources for reason in source.dropped)
        remedies = [REMEDIES[reason] for reason in reasons if reason in REMEDIES]
        return DataError(
            "\n  ".join([f"no usable {part} pair is left of {read:,} rows:", *lines]),
            remedy=" ".join(remedies) or "Give pairs with a prompt and two different answers.",
        )


def _drop_pairs(
    table: PairTable, positions: list[int], reasons: Sequence[RowRejected], reports: Sequence[SourceReport]
) -> PairTable:
    """``table`` without these pairs, which were counted as kept: now they are counted as dropped, each with its reason."""
    names, sources = table.row_names(), table.source_indices()
    cut = {part: table.full_token_counts(part) > table.token_counts(part) for part in ("prompt", *COMPLETIONS)}
    for position, why in zip(positions, reasons, strict=True):
        report = reports[sources[position]]
        report.drop(names[position], why)
        report.kept -= 1
        report.truncated_prompts -= int(cut["prompt"][position])
        report.truncated_completions -= sum(int(cut[answer][position]) for answer in COMPLETIONS)
    return table.select(np.delete(np.arange(len(table)), positions))


def _row_labels(sources: list[Source]) -> dict[str, str]:
    """What the row names of each path begin with: a file's own name, or the path as written where two share a name."""
    names = {
        source.path: PurePath(source.path).name if is_data_file(source.path) else source.path for source in sources
    }
    return {path: path if list(names.values()).count(name) > 1 else name for path, name in names.items()}
