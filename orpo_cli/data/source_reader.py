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

from orpo_cli.data.cache import code_key, kept, tokenizer_key
from orpo_cli.data.chat_template import Renderer, Texts, renderer
from orpo_cli.data.filters import REMEDIES, check, check_margin
from orpo_cli.data.formats.detect import COLUMNS, SCORE_COLUMNS, columns_found, reached, recognise, rename
from orpo_cli.data.formats.format import Format, Gathered
from orpo_cli.data.pair import Pair, RowRejected
from orpo_cli.data.report import SourceReport
from orpo_cli.data.sources.source import Opened, Row, draw, opened
from orpo_cli.data.table import PairWriter
from orpo_cli.data.tokenize import Encoder, Fitted, Tokens, encoder, fit
from orpo_cli.errors import DataError
from orpo_cli.recipe.schema import DatasetSection, Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOOK = 100  # rows looked at to recognise a format
BATCH = 256  # pairs tokenized at once

Note = Callable[[str], None]
Rendered = tuple[str, Pair, Texts]  # the name of the row, the pair, its texts


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
        self.renderer: Renderer = renderer(tokenizer)
        self.encoder: Encoder = encoder(tokenizer, self.renderer.end_tokens)
        self.bos_id: int | None = tokenizer.bos_token_id

    def read(self, part: str, source: Source, label: str, enough: int | None) -> tuple[Path, SourceReport]:
        """The file of the source's pairs, prepared now or before, and what became of its rows.

        ``label`` begins the names of rows; a streamed source is read until it has given ``enough`` pairs.
        """
        enough = enough if source.streaming else None
        with opened(source, label, self.note) as found:
            key = self._key(found, source, label, enough)
            file, figures = kept(key, partial(self._prepare, found, source, enough), self.note)
            return file, SourceReport.from_dict(
                {**figures, "part": part, "path": source.path, "location": found.location}
            )

    def _key(self, found: Opened, source: Source, label: str, enough: int | None) -> dict[str, Any] | None:
        """What decides the pairs of a source; None where its content has no fingerprint."""
        if found.fingerprint is None:
            return None
        return {
            "data": found.fingerprint,
            "label": label,
            "source": source.model_dump(exclude={"path", "weight"}),
            "enough": enough,
            "tokenizer": self._tokenizer_key,
            "lengths": [self.max_length, self.max_prompt_length],
            "dataset": self.dataset.model_dump(exclude={"train", "eval", "max_prompt_length"}),
            "code": code_key(),
        }

    @cached_property
    def _tokenizer_key(self) -> str:
        return tokenizer_key(self.tokenizer)

    def _prepare(self, found: Opened, source: Source, enough: int | None, file: Path) -> dict[str, Any]:
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
                if enough is not None and report.kept >= enough:
                    break
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
                if isinstance(texts, RowRejected):
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
                    raise RowRejected("malformed", "the row is not an object with columns")
                pair = format_.read(row.value, report.notes)
                check(pair, self.dataset.rules)
                check_margin(pair, source.min_score_margin)
                read.append((row.name, pair))
                report.notes["rows_gathered"] += row.rows if isinstance(row, Gathered) else 0
            except RowRejected as why:
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
                    max_length=self.max_length,
                    max_prompt_length=self.max_prompt_length,
                    truncation_mode=self.dataset.truncation_mode,
                    drop_truncated=self.dataset.drop_truncated,
                    drop_identical=self.dataset.rules.identical,
                    bos_id=self.bos_id,
                )
                self._check_ends(cut)
            except RowRejected as why:
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
                raise RowRejected("goes_on_after_end")


def _counted(rows: Iterator[Row], report: SourceReport) -> Iterator[Row]:
    for row in rows:
        report.rows_read += 1
        yield row


def _batches(pairs: Iterator[Rendered]) -> Iterator[list[Rendered]]:
    while batch := list(islice(pairs, BATCH)):
        yield batch


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
