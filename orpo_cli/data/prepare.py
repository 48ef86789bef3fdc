"""Data preparation: from the dataset section of a recipe to tokenized train and eval pairs.

``SourceReader`` prepares each source. This module concatenates them, removes duplicates, splits off the eval pairs and applies
the source weights. Every dropped row is counted under a reason in the report; no remaining pair at all is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, NotRequired, TypedDict, Unpack

import numpy as np

from orpo_cli.data import dedup_and_split
from orpo_cli.data.dropped_rows import DroppedRows
from orpo_cli.data.pair import RowRejected
from orpo_cli.data.pair_encoder import PairEncoder
from orpo_cli.data.report import EXAMPLES, DataReport, SourceReport
from orpo_cli.data.source_reader import Note, SourceReader
from orpo_cli.data.sources.files import is_data_file
from orpo_cli.data.table import COMPLETIONS, PARTS, PairTable, column_numbers
from orpo_cli.data.turns import row_of_pair
from orpo_cli.errors import DataError, UsageError
from orpo_cli.memory_dataset import argument_of
from orpo_cli.recipe.schema import DatasetSection, EvalSplit, Source
from orpo_cli.redaction import redact

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from orpo_cli.data.table import Numbers

DUPLICATE_KEYS = {"duplicate": "digest", "duplicate_prompt": "prompt_key"}  # rule → column that is equal


class PrepareOptions(TypedDict):
    """Options of data preparation. Lengths are tokens; ``note`` receives progress messages."""

    max_length: int
    max_prompt_length: int
    note: Note
    pairs_needed: NotRequired[int | None]  # streamed sources are read until there are so many pairs


@dataclass(frozen=True)
class PreparedData:
    """Train pairs and eval pairs (None where the recipe has none), with the counts of all rows.

    ``tables``: those of all pairs, by part.
    """

    train: Dataset
    eval: Dataset | None
    report: DataReport
    tables: Mapping[str, PairTable]

    def shortest(self, count: int) -> PreparedData:
        """The ``count`` shortest pairs of each part; report and tables stay those of all pairs."""
        shortest = _shortest(self.train, count), self.eval and _shortest(self.eval, count)
        return PreparedData(*shortest, self.report, self.tables)

    def digests(self, part: str) -> NDArray[np.bytes_]:
        """Digests of the token ids and the weight of every pair of ``train`` or ``eval``, in their order."""
        return self.tables[part].training_digests()


def _shortest(pairs: Dataset, count: int) -> Dataset:
    return pairs.select(np.sort(np.argsort(column_numbers(pairs, "length"), kind="stable")[:count]))


@dataclass(frozen=True)
class PreparedEval:
    """Eval pairs only, with the counts of every row that was read for them."""

    eval: Dataset
    report: DataReport


@dataclass(frozen=True)
class PairTables:
    """Tables of the train and eval pairs, and the encoder that tokenized them."""

    train: PairTable
    eval: PairTable | None
    report: DataReport
    encoder: PairEncoder


def prepare(
    dataset: DatasetSection, tokenizer: PreTrainedTokenizerBase, **options: Unpack[PrepareOptions]
) -> PreparedData:
    """Read, check and tokenize the pairs of a recipe; ``PairTable.dataset`` documents their columns.

    Raises DataError where a source cannot be read or no pair is left, HubError where the hub refuses or does not answer,
    UsageError where the tokenizer has no chat template for conversations.
    """
    tables = prepare_tables(dataset, tokenizer, **options)
    eval_pairs = tables.eval.dataset() if tables.eval is not None else None
    parts = {"train": tables.train} | ({"eval": tables.eval} if tables.eval is not None else {})
    return PreparedData(tables.train.dataset(), eval_pairs, tables.report, parts)


def prepare_tables(
    dataset: DatasetSection,
    tokenizer: PreTrainedTokenizerBase,
    *,
    dropped: DroppedRows | None = None,
    **options: Unpack[PrepareOptions],
) -> PairTables:
    """``prepare``, as tables. ``dropped`` collects the rows that are not used."""
    builder = _DatasetBuilder(dataset, tokenizer, dropped, **options)
    train = builder.read_table("train", dataset.train)
    held_out: PairTable | None = None
    if isinstance(dataset.eval, EvalSplit):
        train, held_out = dedup_and_split.split_train_eval(train, dataset.eval, dataset.shuffle_seed)
    elif dataset.eval is not None:
        held_out = builder.read_table("eval", dataset.eval)
    if held_out is not None:
        train = builder.drop_leaked(train, held_out)
    train = builder.apply_weights(train)
    builder.record("train", train)
    if held_out is not None:
        builder.record("eval", held_out)
    return PairTables(train, held_out, builder.report, builder.reader.encoder)


def prepare_eval(
    dataset: DatasetSection, tokenizer: PreTrainedTokenizerBase, **options: Unpack[PrepareOptions]
) -> PreparedEval:
    """Eval pairs only: those that ``prepare`` holds out with the same arguments. Raises as ``prepare`` does.

    Where they are split off the train pairs, those are read too, since the split depends on them.
    """
    if dataset.eval is None:
        raise UsageError(
            "the recipe holds no pairs out.", remedy="Set dataset.eval to a source, or to {test_size: 0.05}."
        )
    builder = _DatasetBuilder(dataset, tokenizer, **options)
    if isinstance(dataset.eval, EvalSplit):
        pairs = builder.read_table("train", dataset.train)
        held_out = dedup_and_split.split_train_eval(pairs, dataset.eval, dataset.shuffle_seed)[1]
    else:
        held_out = builder.read_table("eval", dataset.eval)
    builder.record("eval", held_out)
    return PreparedEval(held_out.dataset(), builder.report)


class _DatasetBuilder:
    """Builder of the train and eval tables from the sources of a recipe; fills the report."""

    def __init__(
        self,
        dataset: DatasetSection,
        tokenizer: PreTrainedTokenizerBase,
        dropped: DroppedRows | None = None,
        **options: Unpack[PrepareOptions],
    ) -> None:
        self.dropped = dropped
        self.dataset = dataset
        lengths = options["max_length"], options["max_prompt_length"]
        self.reader = SourceReader(dataset, PairEncoder(tokenizer), *lengths, options["note"], self.dropped)
        self.pairs_needed = options.get("pairs_needed")
        self.report = DataReport(*lengths, dataset.truncation_mode, self.reader.encoder.end_tokens[0])

    def read_table(self, part: str, sources: list[Source]) -> PairTable:
        """Kept pairs of ``sources``, in their order, without duplicates. Raises DataError where none is left."""
        try:
            table, reports = self._read_sources(part, sources)
        except FileNotFoundError:  # another process removed an entry of the cache after it was verified
            table, reports = self._read_sources(part, sources)
        self.report.sources += reports
        table = self._drop_duplicates(table, reports)
        if not len(table):
            raise self._no_pairs_error(part)
        return table

    def _read_sources(self, part: str, sources: list[Source]) -> tuple[PairTable, list[SourceReport]]:
        labels = _row_labels([*self.dataset.train, *(self.dataset.eval if isinstance(self.dataset.eval, list) else [])])
        read = [
            self.reader.read(
                part, source, labels[source.path], self._pairs_needed_of(source, sources) if part == "train" else None
            )
            for source in sources
        ]
        return PairTable([file for file, _ in read]), [report for _, report in read]

    def _drop_duplicates(self, table: PairTable, reports: list[SourceReport]) -> PairTable:
        for rule, column in DUPLICATE_KEYS.items():
            if not getattr(self.dataset.rules, rule):
                continue
            positions, first = dedup_and_split.find_duplicates(table, column)
            if not len(positions):
                continue
            names = table.select(first).row_names()
            if rule == "duplicate_prompt":  # several rejected answers of one row have the same prompt on purpose
                own = table.select(positions).row_names()
                pairs = zip(own, names, strict=True)
                other = np.flatnonzero([row_of_pair(name) != row_of_pair(before) for name, before in pairs])
                positions, names = positions[other], [names[at] for at in other]
            rejections = (RowRejected(rule, f"as {name}") for name in names)
            table = self._drop_pairs(table, positions, rejections, reports)
        _name_truncated(table, reports)
        return table

    def _drop_pairs(
        self,
        table: PairTable,
        positions: Numbers,
        rejections: Iterable[RowRejected],
        reports: Sequence[SourceReport],
    ) -> PairTable:
        """``table`` without the pairs at ``positions``; the reports count them as dropped instead of kept."""
        dropped = table.select(positions)
        truncated = {part: dropped.full_token_counts(part) > dropped.token_counts(part) for part in PARTS}
        described = zip(dropped.row_names(), dropped.source_indices(), rejections, strict=True)
        for at, (name, source, rejection) in enumerate(described):
            report = reports[source]
            report.drop(name, rejection)
            report.kept -= 1
            report.truncated_prompts -= int(truncated["prompt"][at])
            report.truncated_completions -= sum(int(truncated[completion][at]) for completion in COMPLETIONS)
            if self.dropped is not None:
                self.dropped.part = report.part
                self.dropped.add(name, rejection, dropped.texts(at))
        return table.select(np.delete(np.arange(len(table)), positions))

    def drop_leaked(self, train: PairTable, held_out: PairTable) -> PairTable:
        """Count the train pairs whose prompt occurs in ``held_out``, and drop them where the rule ``leaked`` is on."""
        leaked = dedup_and_split.find_leaked(train, held_out)
        names = train.select(leaked[:EXAMPLES]).row_names()
        self.report.leaked = {"pairs": len(leaked), "examples": names, "left_out": self.dataset.rules.leaked}
        if not (self.dataset.rules.leaked and len(leaked)):
            return train
        rejections = [RowRejected("leaked")] * len(leaked)
        kept = self._drop_pairs(train, leaked, rejections, self.report.sources)
        if not len(kept):
            raise DataError(
                "leakage: the prompt of every train pair occurs in the eval pairs.",
                remedy="Hold out other prompts, or set dataset.rules.leaked to false.",
            )
        _name_truncated(kept, [source for source in self.report.sources if source.part == "train"])
        return kept

    def apply_weights(self, train: PairTable) -> PairTable:
        """Repeat or sample the train pairs by source weight; a streamed source was read by its weight already."""
        weights = [1.0 if source.streaming else source.weight for source in self.dataset.train]
        if all(weight == 1.0 for weight in weights):
            return train
        used = dedup_and_split.apply_weights(train, train.source_indices(), weights, self.dataset.shuffle_seed)
        if not len(used):
            raise DataError(
                f"dataset.train: the weights leave none of its {len(train):,} pairs.",
                remedy="Raise dataset.train.weight: 0.5 uses half of the pairs of a source.",
            )
        counts = np.bincount(used.source_indices(), minlength=len(weights))
        for report, count in zip(self.report.sources, counts, strict=False):  # train's sources come first
            report.used = int(count)
        return used

    def record(self, part: str, table: PairTable) -> None:
        """Enter ``table`` in the report as train or eval."""
        if part == "train":
            self.report.train_pairs = len(table)
        else:
            self.report.eval_pairs = len(table)
        self.report.lengths[part] = table.length_stats()
        if weights := table.weight_stats():
            self.report.weights[part] = weights
        self.report.fingerprints[part] = table.fingerprint()

    def _pairs_needed_of(self, source: Source, sources: list[Source]) -> int | None:
        """Pairs to read from a streamed source: its fraction, by weight, of the pairs that training needs."""
        if self.pairs_needed is None:
            return None
        test_size = self.dataset.eval.test_size if isinstance(self.dataset.eval, EvalSplit) else 0
        needed = self.pairs_needed / (1 - test_size) if isinstance(test_size, float) else self.pairs_needed + test_size
        return math.ceil(needed * source.weight / sum(each.weight for each in sources))

    def _no_pairs_error(self, part: str) -> DataError:
        sources = [source for source in self.report.sources if source.part == part]
        read = sum(source.rows_read for source in sources)
        lines = [f"{source.location}: {line}" for source in sources for line in source.drop_lines()]
        remedies = dict.fromkeys(
            remedy for source in sources for reason in source.dropped for remedy in source.remedies_of(reason)
        )
        return DataError(
            "\n  ".join([f"no usable {part} pair is left of {read:,} rows:", *lines]),
            remedy=" ".join(remedies) or "Give pairs with a prompt and two different answers.",
        )


def _name_truncated(table: PairTable, reports: Sequence[SourceReport]) -> None:
    """Enter the first truncated pairs of ``table`` in the report of their source."""
    truncated = np.any([table.full_token_counts(part) > table.token_counts(part) for part in PARTS], axis=0)
    for number, report in enumerate(reports):
        positions = np.flatnonzero(truncated & (table.source_indices() == number))[:EXAMPLES]
        report.truncated_rows = table.select(positions).row_names()


def _row_labels(sources: list[Source]) -> dict[str, str]:
    """Start of the row names of each path: the file's name, or the full path where two files share a name.

    For a dataset in memory, the argument that gave it.

    Without the password and the query of a URL, because row names are written to reports and to the cache.
    """
    paths = {source.path: redact(re.sub(r"^(https?://[^?#]*)[?#].*", r"\1", source.path)) for source in sources}
    names = {
        path: argument_of(path) or (PurePath(shown).name if is_data_file(shown) else shown)
        for path, shown in paths.items()
    }
    return {path: paths[path] if list(names.values()).count(name) > 1 else name for path, name in names.items()}
