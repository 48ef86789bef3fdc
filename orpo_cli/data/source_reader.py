"""The pairs of one source: read, recognised, checked, rendered, tokenized, cut to the lengths, and kept in the cache.

Rows go through in batches: while one is tokenized, the next is read and rendered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.data.cache import code_key, load_or_prepare, tokenizer_key
from orpo_cli.data.chat_template import ChatTemplateRenderer, PairTexts, renderer
from orpo_cli.data.filters import REMEDIES, check_margin, check_pair
from orpo_cli.data.formats.detect import (
    COLUMNS,
    SCORE_COLUMNS,
    describe_columns,
    detect_format,
    find_column,
    rename_columns,
)
from orpo_cli.data.formats.format import Format, GroupedRow
from orpo_cli.data.pair import Pair, RowRejected
from orpo_cli.data.report import SourceReport
from orpo_cli.data.sources.source import OpenedSource, Row, open_source, sample_rows
from orpo_cli.data.table import PairWriter
from orpo_cli.data.tokenize import PairTokenizer, PairTokens, TruncatedPair, encoder, truncate
from orpo_cli.errors import DataError
from orpo_cli.recipe.schema import DatasetSection, Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT_SAMPLE_ROWS = 100  # rows looked at to recognise a format
BATCH_PAIRS = 256  # pairs tokenized at once

Note = Callable[[str], None]
RenderedPair = tuple[str, Pair, PairTexts]  # the name of the row, the pair, its texts


class SourceReader:
    """Prepares sources for one tokenizer and the lengths and rules of one dataset section."""

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
        self.max_length, self.max_prompt_length = max_length, max_prompt_length
        self.note = note
        self.renderer: ChatTemplateRenderer = renderer(tokenizer)
        self.encoder: PairTokenizer = encoder(tokenizer, self.renderer.end_tokens)
        self.bos_id: int | None = tokenizer.bos_token_id

    def read(self, part: str, source: Source, label: str, pairs_needed: int | None) -> tuple[Path, SourceReport]:
        """The file of the source's pairs, prepared now or before, and what became of its rows.

        ``label`` begins the names of rows; a streamed source is read until it has given ``pairs_needed`` pairs.
        """
        pairs_needed = pairs_needed if source.streaming else None
        with open_source(source, label, self.note) as found:
            key = self._cache_key(found, source, label, pairs_needed)
            file, figures = load_or_prepare(key, partial(self._prepare, found, source, pairs_needed), self.note)
            return file, SourceReport.from_dict(
                {**figures, "part": part, "path": source.path, "location": found.location}
            )

    def _cache_key(
        self, found: OpenedSource, source: Source, label: str, pairs_needed: int | None
    ) -> dict[str, Any] | None:
        """What decides the pairs of a source; None where its content has no fingerprint."""
        if found.fingerprint is None:
            return None
        return {
            "data": found.fingerprint,
            "label": label,
            "source": source.model_dump(exclude={"path", "weight"}),
            "enough": pairs_needed,
            "tokenizer": self._tokenizer_key,
            "lengths": [self.max_length, self.max_prompt_length],
            "dataset": self.dataset.model_dump(exclude={"train", "eval", "max_prompt_length"}),
            "code": code_key(),
        }

    @cached_property
    def _tokenizer_key(self) -> str:
        return tokenizer_key(self.tokenizer)

    def _prepare(self, found: OpenedSource, source: Source, pairs_needed: int | None, file: Path) -> dict[str, Any]:
        """Write the source's pairs to ``file``; returns what became of its rows, JSON-ready."""
        drawn = sample_rows(found, source, self.dataset.shuffle_seed)
        report = SourceReport("", source.path, found.location, found.fingerprint, source.split)
        report.available = drawn.available
        head = list(islice(drawn.rows, FORMAT_SAMPLE_ROWS))
        if not head:
            raise DataError(
                f"{found.location}: no rows in split {source.split}.", remedy="Check the file and `split:`."
            )
        _check_columns(source, head, found.location)
        rows = (Row(row.name, rename_columns(row.value, source.columns)) for row in chain(head, drawn.rows))
        values = [rename_columns(row.value, source.columns) for row in head]
        format_ = detect_format(
            values,
            source.format,
            f"{found.location} (looked at from {head[0].name})",
            labels=source.labels,
            seed=self.dataset.shuffle_seed,
        )
        report.format = format_.name
        used = {*format_.columns, *(SCORE_COLUMNS if source.min_score_margin is not None else ())}
        report.unused_columns = [name for name in _column_names(values) if name not in used]
        self.note(f"reading {found.location} as {format_.name}")
        with PairWriter(file) as writer:
            for pairs, tokens in self._tokenize_batches(_batches(self._render_rows(rows, format_, source, report))):
                writer.write(self._truncate_batch(pairs, tokens, report))
                if pairs_needed is not None and report.kept >= pairs_needed:
                    break
        report.notes = +report.notes
        if report.dropped["malformed"] == report.rows_read:
            raise DataError(
                f"{found.location}: no row fits the format {format_.name} ({format_.description}); {describe_columns(values)}. "
                f"For example {report.examples['malformed'][0]}.",
                remedy=REMEDIES["malformed"],
            )
        return report.as_dict()

    def _render_rows(
        self, rows: Iterator[Row], format_: Format, source: Source, report: SourceReport
    ) -> Iterator[RenderedPair]:
        """The rows that are pairs, as texts; drops are counted. Rendered in batches: a template costs less for many."""
        rows = _count_rows(rows, report)
        gathered: Iterator[Row | GroupedRow] = format_.group(rows, report.drop) if format_.group else rows
        while batch := list(islice(gathered, BATCH_PAIRS)):
            read = self._parse_rows(batch, format_, source, report)
            for (name, pair), texts in zip(read, self.renderer.render_all([pair for _, pair in read]), strict=True):
                if isinstance(texts, RowRejected):
                    report.drop(name, texts)
                else:
                    yield name, pair, texts

    def _parse_rows(
        self, rows: Sequence[Row | GroupedRow], format_: Format, source: Source, report: SourceReport
    ) -> list[tuple[str, Pair]]:
        read = []
        for row in rows:
            try:
                if not isinstance(row.value, dict):
                    raise RowRejected("malformed", "the row is not an object with columns")
                pair = format_.read(row.value, report.notes)
                check_pair(pair, self.dataset.rules)
                check_margin(pair, source.min_score_margin)
                read.append((row.name, pair))
                report.notes["rows_gathered"] += row.rows if isinstance(row, GroupedRow) else 0
            except RowRejected as why:
                report.drop(row.name, why, row.rows if isinstance(row, GroupedRow) else 1)
        return read

    def _tokenize_batches(
        self, batches: Iterator[list[RenderedPair]]
    ) -> Iterator[tuple[list[RenderedPair], list[PairTokens]]]:
        """Each batch with its ids. The tokenizer works on one, on all cores, while the caller makes the next."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenize") as tokenizing:
            waiting: tuple[list[RenderedPair], Future[list[PairTokens]]] | None = None
            for batch in batches:
                future = tokenizing.submit(self.encoder.encode, [texts for *_, texts in batch])
                if waiting is not None:
                    yield waiting[0], waiting[1].result()
                waiting = batch, future
            if waiting is not None:
                yield waiting[0], waiting[1].result()

    def _truncate_batch(
        self, pairs: list[RenderedPair], tokens: list[PairTokens], report: SourceReport
    ) -> list[tuple[str, Pair, TruncatedPair]]:
        """The pairs within the lengths; the others are counted."""
        fitted = []
        for (name, pair, texts), ids in zip(pairs, tokens, strict=True):
            try:
                cut = truncate(
                    ids,
                    max_length=self.max_length,
                    max_prompt_length=self.max_prompt_length,
                    truncation_mode=self.dataset.truncation_mode,
                    drop_truncated=self.dataset.drop_truncated,
                    drop_identical=self.dataset.rules.identical,
                    bos_id=self.bos_id,
                )
                self._check_end_tokens(cut)
            except RowRejected as why:
                report.drop(name, why)
                continue
            fitted.append((name, pair, cut))
            report.kept += 1
            report.truncated_prompts += cut.prompt_truncated
            report.truncated_completions += cut.completions_truncated
            report.notes["generation_prompt_shortened"] += texts.generation_prompt_shortened
            report.notes["special_token_spelled"] += bool(texts.placeholders)
        return fitted

    def _check_end_tokens(self, ids: TruncatedPair) -> None:
        """An answer ends where it first says so; only texts that were rendered elsewhere can break this."""
        for answer in (ids.chosen, ids.rejected):
            if not self.encoder.end_token_ids.isdisjoint(answer[:-1]):
                raise RowRejected("goes_on_after_end")


def _count_rows(rows: Iterator[Row], report: SourceReport) -> Iterator[Row]:
    for row in rows:
        report.rows_read += 1
        yield row


def _batches(pairs: Iterator[RenderedPair]) -> Iterator[list[RenderedPair]]:
    while batch := list(islice(pairs, BATCH_PAIRS)):
        yield batch


def _check_columns(source: Source, rows: list[Row], location: str) -> None:
    unknown = [ours for ours in source.columns if ours not in COLUMNS]
    if unknown:
        raise DataError(
            f"{location}: columns: {', '.join(unknown)} is none of our names.", remedy=f"Ours: {', '.join(COLUMNS)}."
        )
    found = _column_names([row.value for row in rows])
    values = [row.value for row in rows if isinstance(row.value, dict)]
    missing = [theirs for theirs in source.columns.values() if not any(find_column(value, theirs) for value in values)]
    if missing:
        raise DataError(
            f"{location}: columns: the data has no {' and no '.join(missing)}.",
            remedy=f"It has {', '.join(found) or 'none'}.",
        )


def _column_names(rows: list[Any]) -> list[str]:
    return list(dict.fromkeys(str(key) for row in rows if isinstance(row, dict) for key in row))
