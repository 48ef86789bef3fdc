"""From the recipe's dataset section to pairs that a trainer can take: read, recognise, check, render, tokenize, fit.

Rows go through in batches: while one is tokenized, the next is read and rendered. What a source gives is kept in the cache.
Whatever is not trained on is counted under a reason, in the report; a source that gives nothing, or a whole that leaves
nothing, is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from orpo_cli.data.cache import code_key, kept, tokenizer_key
from orpo_cli.data.files import is_data_file
from orpo_cli.data.formats.recognise import COLUMNS, SCORE_COLUMNS, columns_found, reached, recognise, rename
from orpo_cli.data.formats.shape import Format, Gathered
from orpo_cli.data.pair import Misfit, Pair
from orpo_cli.data.render import Renderer, Texts, renderer
from orpo_cli.data.report import DataReport, SourceReport
from orpo_cli.data.rules import REMEDIES, check, check_margin
from orpo_cli.data.sources import Opened, Row, draw, opened
from orpo_cli.data.table import PairTable, PairWriter
from orpo_cli.data.tokenize import Encoder, Fitted, Tokens, encoder, fit
from orpo_cli.errors import DataError, UsageError
from orpo_cli.recipe.schema import DatasetSection, EvalSplit, Source

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

LOOK = 100  # rows looked at to recognise a format
BATCH = 512  # pairs tokenized at once

Note = Callable[[str], None]
Rendered = tuple[str, Pair, Texts]  # the name of the row, the pair, its texts


@dataclass(frozen=True)
class Prepared:
    """Pairs to train on and held-out pairs (None where the recipe asks for none), with what became of every row."""

    train: Dataset
    eval: Dataset | None
    report: DataReport

    def shortest(self, count: int) -> Prepared:
        """Only the ``count`` shortest pairs of each part; the report stays that of all."""
        return Prepared(_shortest(self.train, count), self.eval and _shortest(self.eval, count), self.report)


def _shortest(pairs: Dataset, count: int) -> Dataset:
    lengths = pairs["length"]
    return pairs.select(sorted(sorted(range(len(pairs)), key=lambda position: lengths[position])[:count]))


@dataclass(frozen=True)
class HeldOut:
    """The held-out pairs alone, with what became of every row that was read for them."""

    eval: Dataset
    report: DataReport


def prepare(
    dataset: DatasetSection, tokenizer: PreTrainedTokenizerBase, *, max_length: int, max_prompt_length: int, note: Note
) -> Prepared:
    """Read, check and tokenize the pairs that a recipe asks for; ``PairTable`` says which columns they have.

    ``max_length`` and ``max_prompt_length`` are tokens; ``note`` is told what is going on. Raises DataError where a source
    cannot be read or no pair is left, HubError where the hub refuses or is silent, UsageError where the tokenizer has no
    chat template for conversations.
    """
    work = _Work(dataset, tokenizer, max_length, max_prompt_length, note)
    train = work.table("train", dataset.train)
    if dataset.eval is None:
        return Prepared(work.part("train", train), None, work.report)
    if isinstance(dataset.eval, EvalSplit):
        kept, held_out = work.divide(train, dataset.eval)
        return Prepared(work.part("train", train, kept), work.part("eval", train, held_out), work.report)
    held = work.table("eval", dataset.eval)
    return Prepared(work.part("train", train), work.part("eval", held), work.report)


def prepare_eval(
    dataset: DatasetSection, tokenizer: PreTrainedTokenizerBase, *, max_length: int, max_prompt_length: int, note: Note
) -> HeldOut:
    """The held-out pairs only: the same that ``prepare`` holds out with the same arguments. Raises as ``prepare`` does.

    Where they are cut from the training pairs, those are read too, since the cut depends on them.
    """
    work = _Work(dataset, tokenizer, max_length, max_prompt_length, note)
    if dataset.eval is None:
        raise UsageError(
            "the recipe holds no pairs out.", remedy="Set dataset.eval to a source, or to {test_size: 0.05}."
        )
    if isinstance(dataset.eval, EvalSplit):
        train = work.table("train", dataset.train)
        return HeldOut(work.part("eval", train, work.divide(train, dataset.eval)[1]), work.report)
    return HeldOut(work.part("eval", work.table("eval", dataset.eval)), work.report)


class _Work:
    """What all sources of a recipe share: the tokenizer's rules, the lengths, the report."""

    def __init__(
        self,
        dataset: DatasetSection,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        max_prompt_length: int,
        note: Note,
    ) -> None:
        self.dataset = dataset
        self.tokenizer = tokenizer
        self.note = note
        self.renderer: Renderer = renderer(tokenizer)
        self.encoder: Encoder = encoder(tokenizer, self.renderer.end_tokens)
        self.bos_id: int | None = tokenizer.bos_token_id
        self.report = DataReport(
            max_length, max_prompt_length, dataset.truncation_mode, end_of_turn=self.renderer.end_tokens[0]
        )

    def table(self, part: str, sources: list[Source]) -> PairTable:
        """The kept pairs of ``sources``, in their order. Raises DataError where none is left."""
        labels = _labels([*self.dataset.train, *(self.dataset.eval if isinstance(self.dataset.eval, list) else [])])
        table = PairTable([self._source(part, source, labels[source.path]) for source in sources])
        if not len(table):
            raise self._nothing_left(part)
        return table

    def divide(self, table: PairTable, split: EvalSplit) -> tuple[list[int], list[int]]:
        """Positions to train on and positions held out, each in ascending order.

        Held out are the pairs whose row names have the smallest digests together with ``shuffle_seed``: a pair that comes
        or goes (other lengths, another tokenizer) moves at most one other. A share is rounded up. Raises DataError where
        nothing would be left to train on.
        """
        size = math.ceil(split.test_size * len(table)) if isinstance(split.test_size, float) else split.test_size
        if size >= len(table):
            raise DataError(
                f"dataset.eval.test_size: {split.test_size} holds out {size:,} of {len(table):,} pairs and leaves none to train "
                "on.",
                remedy="Lower it.",
            )
        seed, rows = self.dataset.shuffle_seed, table.rows
        order = sorted(range(len(table)), key=lambda position: sha256(f"{seed}:{rows[position]}".encode()).digest())
        return sorted(order[size:]), sorted(order[:size])

    def part(self, part: str, table: PairTable, positions: list[int] | None = None) -> Dataset:
        """The dataset of train or eval, entered in the report."""
        places = range(len(table)) if positions is None else positions
        if part == "train":
            self.report.train_pairs = len(places)
        else:
            self.report.eval_pairs = len(places)
        self.report.lengths[part] = table.lengths(places)
        self.report.fingerprints[part] = table.fingerprint(places)
        return table.dataset(positions)

    def _source(self, part: str, source: Source, label: str) -> Path:
        """The file of the source's pairs, prepared now or before; enters what became of its rows in the report."""
        with opened(source, label, self.note) as found:
            file, figures = kept(self._key(found, source, label), partial(self._prepare, found, source), self.note)
            report = SourceReport.from_dict({**figures, "part": part, "path": source.path, "location": found.location})
            self.report.sources.append(report)
            return file

    def _key(self, found: Opened, source: Source, label: str) -> dict[str, Any] | None:
        """What decides the pairs of a source; None where its content has no fingerprint."""
        if found.fingerprint is None:
            return None
        return {
            "data": found.fingerprint,
            "label": label,
            "source": source.model_dump(exclude={"path", "weight"}),
            "seed": None if source.max_samples is None else self.dataset.shuffle_seed,
            "tokenizer": self._tokenizer_key,
            "lengths": [self.report.max_length, self.report.max_prompt_length],
            "cutting": [self.dataset.truncation_mode, self.dataset.drop_truncated],
            "code": code_key(),
        }

    @cached_property
    def _tokenizer_key(self) -> str:
        return tokenizer_key(self.tokenizer)

    def _prepare(self, found: Opened, source: Source, file: Path) -> dict[str, Any]:
        """Write the source's pairs to ``file``; returns what became of its rows, JSON-ready."""
        drawn = draw(found, source, self.dataset.shuffle_seed)
        report = SourceReport("", source.path, found.location, found.fingerprint, source.split)
        report.available = drawn.available
        head = list(islice(drawn.rows, LOOK))
        if not head:
            raise DataError(
                f"{found.location}: no rows in split {source.split}.", remedy="Check the file and `split:`."
            )
        _check_columns(source, head, found.location)
        rows = (Row(row.name, rename(row.value, source.columns)) for row in chain(head, drawn.rows))
        values = [rename(row.value, source.columns) for row in head]
        format_ = recognise(
            values,
            source.format,
            f"{found.location} (looked at from {head[0].name})",
            labels=source.labels,
            seed=self.dataset.shuffle_seed,
        )
        report.format = format_.name
        used = {*format_.uses, *(SCORE_COLUMNS if source.min_score_margin is not None else ())}
        report.unused_columns = [name for name in _names(values) if name not in used]
        self.note(f"reading {found.location} as {format_.name}")
        with PairWriter(file) as writer:
            for pairs, tokens in self._tokenized(_batches(self._pairs(rows, format_, source, report))):
                writer.write(self._fitted(pairs, tokens, report))
        report.notes = +report.notes
        if report.dropped["malformed"] == report.rows_read:
            raise DataError(
                f"{found.location}: no row fits the format {format_.name} ({format_.description}); {columns_found(values)}. "
                f"For example {report.examples['malformed'][0]}.",
                remedy=REMEDIES["malformed"],
            )
        return report.as_dict()

    def _pairs(self, rows: Iterator[Row], format_: Format, source: Source, report: SourceReport) -> Iterator[Rendered]:
        """The rows that are pairs, as texts; drops are counted. Rendered in batches: a template costs less for many."""
        rows = _counted(rows, report)
        gathered: Iterator[Row | Gathered] = format_.gather(rows, report.drop) if format_.gather else rows
        while batch := list(islice(gathered, BATCH)):
            read = self._read(batch, format_, source, report)
            for (name, pair), texts in zip(read, self.renderer.render_all([pair for _, pair in read]), strict=True):
                if isinstance(texts, Misfit):
                    report.drop(name, texts)
                else:
                    yield name, pair, texts

    def _read(
        self, rows: Sequence[Row | Gathered], format_: Format, source: Source, report: SourceReport
    ) -> list[tuple[str, Pair]]:
        read = []
        for row in rows:
            try:
                if not isinstance(row.value, dict):
                    raise Misfit("malformed", "the row is not an object with columns")
                pair = format_.read(row.value, report.notes)
                check(pair)
                check_margin(pair, source.min_score_margin)
                read.append((row.name, pair))
                report.notes["rows_gathered"] += row.rows if isinstance(row, Gathered) else 0
            except Misfit as why:
                report.drop(row.name, why, row.rows if isinstance(row, Gathered) else 1)
        return read

    def _tokenized(self, batches: Iterator[list[Rendered]]) -> Iterator[tuple[list[Rendered], list[Tokens]]]:
        """Each batch with its ids. The tokenizer works on one, on all cores, while the caller makes the next."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenize") as tokenizing:
            waiting: tuple[list[Rendered], Future[list[Tokens]]] | None = None
            for batch in batches:
                future = tokenizing.submit(self.encoder.encode, [texts for *_, texts in batch])
                if waiting is not None:
                    yield waiting[0], waiting[1].result()
                waiting = batch, future
            if waiting is not None:
                yield waiting[0], waiting[1].result()

    def _fitted(
        self, pairs: list[Rendered], tokens: list[Tokens], report: SourceReport
    ) -> list[tuple[str, Pair, Fitted]]:
        """The pairs within the lengths; the others are counted."""
        fitted = []
        for (name, pair, texts), ids in zip(pairs, tokens, strict=True):
            try:
                cut = fit(
                    ids,
                    max_length=self.report.max_length,
                    max_prompt_length=self.report.max_prompt_length,
                    truncation_mode=self.dataset.truncation_mode,
                    drop_truncated=self.dataset.drop_truncated,
                    bos_id=self.bos_id,
                )
                self._check_ends(cut)
            except Misfit as why:
                report.drop(name, why)
                continue
            fitted.append((name, pair, cut))
            report.kept += 1
            report.truncated_prompts += cut.prompt_cut
            report.truncated_completions += cut.answers_cut
            report.notes["generation_prompt_shortened"] += texts.shortened
            report.notes["special_token_spelled"] += bool(texts.spelled)
        return fitted

    def _check_ends(self, ids: Fitted) -> None:
        """An answer ends where it first says so; only texts that were rendered elsewhere can break this."""
        for answer in (ids.chosen, ids.rejected):
            if not self.encoder.end_ids.isdisjoint(answer[:-1]):
                raise Misfit("goes_on_after_end")

    def _nothing_left(self, part: str) -> DataError:
        sources = [source for source in self.report.sources if source.part == part]
        read = sum(source.rows_read for source in sources)
        lines = [f"{source.location}: {line}" for source in sources for line in source.drops()]
        reasons = dict.fromkeys(reason for source in sources for reason in source.dropped)
        remedies = [REMEDIES[reason] for reason in reasons if reason in REMEDIES]
        return DataError(
            "\n  ".join([f"no usable {part} pair is left of {read:,} rows:", *lines]),
            remedy=" ".join(remedies) or "Give pairs with a prompt and two different answers.",
        )


def _counted(rows: Iterator[Row], report: SourceReport) -> Iterator[Row]:
    for row in rows:
        report.rows_read += 1
        yield row


def _batches(pairs: Iterator[Rendered]) -> Iterator[list[Rendered]]:
    while batch := list(islice(pairs, BATCH)):
        yield batch


def _labels(sources: list[Source]) -> dict[str, str]:
    """What the row names of each path begin with: a file's own name, or the path as written where two share a name."""
    names = {
        source.path: PurePath(source.path).name if is_data_file(source.path) else source.path for source in sources
    }
    return {path: path if list(names.values()).count(name) > 1 else name for path, name in names.items()}


def _check_columns(source: Source, rows: list[Row], where: str) -> None:
    unknown = [ours for ours in source.columns if ours not in COLUMNS]
    if unknown:
        raise DataError(
            f"{where}: columns: {', '.join(unknown)} is none of our names.", remedy=f"Ours: {', '.join(COLUMNS)}."
        )
    found = _names([row.value for row in rows])
    values = [row.value for row in rows if isinstance(row.value, dict)]
    missing = [theirs for theirs in source.columns.values() if not any(reached(value, theirs) for value in values)]
    if missing:
        raise DataError(
            f"{where}: columns: the data has no {' and no '.join(missing)}.",
            remedy=f"It has {', '.join(found) or 'none'}.",
        )


def _names(rows: list[Any]) -> list[str]:
    return list(dict.fromkeys(str(key) for row in rows if isinstance(row, dict) for key in row))
