"""Source reader: the rows of one source parsed, filtered, rendered, tokenized and truncated, or loaded from the pair cache.

Rows are processed in batches: while some are tokenized, the next is read and rendered.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from orpo_cli.data.chat_template import PairTexts, TemplateLimitOfPair
from orpo_cli.data.dropped_rows import DroppedRows
from orpo_cli.data.filters import check_margin, check_pair
from orpo_cli.data.first_rows import FORMAT_SAMPLE_ROWS, PLAIN_TEXT
from orpo_cli.data.formats.column_values import is_number
from orpo_cli.data.formats.detect import SCORE_COLUMNS, check_columns, describe_columns, detect_format, rename_columns
from orpo_cli.data.formats.format import Format, GroupedRow, has_several_system_texts
from orpo_cli.data.formats.several_rejected import SCORE_LISTS, numbered_columns, parse_text_lists, text_list_columns
from orpo_cli.data.json_text import check_cells, parse_cells
from orpo_cli.data.media import check_text_only
from orpo_cli.data.pair import Pair, RowRejected
from orpo_cli.data.pair_cache import code_key, is_cache_enabled, load_or_prepare, tokenizer_key
from orpo_cli.data.pair_encoder import PairEncoder
from orpo_cli.data.pair_weight import WEIGHT_COLUMN, check_weight_source, with_weight
from orpo_cli.data.pair_writer import PairWriter
from orpo_cli.data.report import SEVERAL_PAIRS, SourceReport
from orpo_cli.data.sources.opened import OpenedSource, Row
from orpo_cli.data.sources.sample import sample_rows
from orpo_cli.data.sources.source import open_source
from orpo_cli.data.text_pairs import TextPairs
from orpo_cli.data.tokenize import PairTokens, TruncatedPair, truncate
from orpo_cli.data.turns import pair_names, read_pairs
from orpo_cli.errors import DataError
from orpo_cli.memory_dataset import argument_of, source_label
from orpo_cli.recipe.schema import DatasetSection, Source

BATCH_PAIRS = 64  # pairs tokenized at once: with more, a core waits for the first batch and in the last one
BATCHES_AHEAD = 3  # batches that are tokenized or wait for it: the cores have work while Python copies ids

Note = Callable[[str], None]
RenderedPair = tuple[str, Pair, PairTexts]  # row name, pair, texts

AT_RANDOM = "drawn at random"
TOGETHER = "consecutive ones from a random place, so that rows of a prompt stay together"


class SourceReader:
    """Reader of sources for one tokenizer and the maximum lengths and rules of one dataset section.

    ``dropped`` collects the rows that are not used.
    """

    def __init__(
        self,
        dataset: DatasetSection,
        encoder: PairEncoder,
        max_length: int,
        max_prompt_length: int,
        note: Note,
        dropped: DroppedRows | None = None,
    ) -> None:
        self.dataset = dataset
        self.encoder = encoder
        self.max_length, self.max_prompt_length = max_length, max_prompt_length
        self.note = note
        self._noted: set[str] = set()  # notes of the cache, which are the same for each source
        self.dropped = dropped

    def read(self, part: str, source: Source, label: str, pairs_needed: int | None) -> tuple[Path, SourceReport]:
        """File of the source's pairs, from the cache or newly prepared, and the counts of its rows.

        ``label`` starts the row names; a streamed source is read until it has given ``pairs_needed`` pairs.
        """
        pairs_needed = pairs_needed if source.streaming else None
        with open_source(source, label, self.note) as found:
            key = self._cache_key(found, source, label, pairs_needed)
            prepare = partial(self._prepare, found, source, pairs_needed)
            if self.dropped is not None:
                self.dropped.part = part
            file, counts = load_or_prepare(key, prepare, self._note_once)
            return file, SourceReport.from_dict(
                {**counts, "part": part, "path": source_label(source.path), "location": source_label(found.location)}
            )

    def _note_once(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self.note(text)

    @cached_property
    def _tokenizer_key(self) -> str:
        return tokenizer_key(self.encoder.tokenizer)

    def _cache_key(
        self, found: OpenedSource, source: Source, label: str, pairs_needed: int | None
    ) -> dict[str, Any] | None:
        """All inputs that decide the pairs of a source; None where its content has no fingerprint, its dropped rows are wanted, or the cache is off."""
        if found.fingerprint is None or self.dropped is not None or not is_cache_enabled():
            return None
        return {
            "data": found.fingerprint,
            "files": found.files,  # a renamed file may be of another split, and its rows have other names
            "label": label,
            "source": source.model_dump(exclude={"path", "weight"}),
            "pairs_needed": pairs_needed,
            "tokenizer": self._tokenizer_key,
            "lengths": [self.max_length, self.max_prompt_length],
            "dataset": self.dataset.model_dump(exclude={"train", "eval", "max_prompt_length"}),
            "code": code_key(),
        }

    def _prepare(self, found: OpenedSource, source: Source, pairs_needed: int | None, file: Path) -> dict[str, Any]:
        """Write the source's pairs to ``file``; returns the counts of its rows, JSON-ready."""
        sampled = sample_rows(found, source, self.dataset.shuffle_seed)
        report = SourceReport("", source.path, found.location, found.fingerprint, source.split)
        report.available = sampled.available
        report.sampling = AT_RANDOM if sampled.available is not None else ""
        format_, rows, first_rows = self._detect_format(found, source, sampled.rows, report)
        if format_.group is not None and sampled.available is not None:
            sampled, report.sampling = sample_rows(found, source, self.dataset.shuffle_seed, together=True), TOGETHER
            format_, rows, first_rows = self._detect_format(found, source, sampled.rows, report)
        self.note(f"reading {found.location} as {format_.name}")
        text_pairs = TextPairs(self.encoder.tokenizer, self.encoder.end_tokens, format_)
        format_ = replace(format_, read=partial(_read_pair, format_.read, text_pairs))
        with PairWriter(file, self.dataset.shuffle_seed) as writer:
            for pairs, tokens in self._tokenize_batches(
                self._render_batches(rows, format_, source, report),
                lambda waiting: pairs_needed is not None and report.kept + waiting >= pairs_needed,
            ):
                writer.write(self._truncate_batch(pairs, tokens, report))
                if pairs_needed is not None and report.kept >= pairs_needed:
                    break
        found.check_unchanged()
        text_pairs.check_mixed(report.notes)
        report.drop_notes_of_few()
        report.notes = +report.notes
        if not report.kept and set(report.dropped) == {"malformed"}:
            raise DataError(
                f"{found.location}: no row fits the format {format_.name} ({format_.description}); "
                f"{describe_columns(first_rows)}. For example {report.examples['malformed'][0]}.",
                remedy=" ".join(report.remedies_of("malformed")),
            )
        return report.as_dict()

    def _detect_format(
        self, found: OpenedSource, source: Source, rows: Iterator[Row], report: SourceReport
    ) -> tuple[Format, Iterator[Row], list[Any]]:
        """The format, all rows with their columns renamed, and the first ones, by which the format was detected."""
        head = list(islice(rows, FORMAT_SAMPLE_ROWS))
        if not head:
            if argument_of(source.path) is not None:  # a Python program gives it
                raise DataError(
                    f"{found.location}: the dataset has no rows.", remedy="Check the filter or the split that made it."
                )
            raise DataError(
                f"{found.location}: no rows in split {source.split}.", remedy="Check the file and `split:`."
            )
        check_columns(source.columns, [row.value for row in head], found.location)
        first_rows = [rename_columns(row.value, source.columns) for row in head]
        rows = (Row(row.name, rename_columns(row.value, source.columns)) for row in chain(head, rows))
        if source.format != PLAIN_TEXT:
            lists = text_list_columns(first_rows)
            first_rows = [parse_cells(parse_text_lists(row, lists)) for row in first_rows]
            rows = (Row(row.name, parse_text_lists(row.value, lists)) for row in rows)
        where, seed = f"{found.location} (rows from {head[0].name})", self.dataset.shuffle_seed
        format_ = detect_format(
            first_rows, source.format, where, labels=source.labels, columns=source.columns, seed=seed
        )
        report.format = format_.name
        report.columns, report.choice = dict(source.columns), format_.choice
        check_weight_source(source, format_, found.location)
        dicts = [row for row in first_rows if isinstance(row, dict)]
        used = {*format_.columns, *(name for row in dicts for name in numbered_columns(row))}
        if source.min_score_margin is not None or source.weight_by is not None or self.dataset.rejected == "worst":
            used |= {*SCORE_COLUMNS, *SCORE_LISTS}
        used |= {WEIGHT_COLUMN} & source.columns.keys() | {path.split(".")[0] for path in source.columns.values()}
        names = dict.fromkeys(_printable(key) for row in dicts for key in row)
        report.unused_columns = [source.columns.get(name, name) for name in names if name not in used]
        return format_, rows, first_rows

    def _render_batches(
        self, rows: Iterator[Row], format_: Format, source: Source, report: SourceReport
    ) -> Iterator[list[RenderedPair]]:
        """Texts of the rows that are pairs; drops are counted. In batches, since one template call for many conversations is cheaper."""
        rows = self._readable_rows(_count_rows(rows, report), format_, report)
        group = (source.streaming and format_.group_stream) or format_.group
        grouped = group(rows, partial(self._drop, report)) if group else rows
        pairs = self._parse_rows(grouped, format_, source, report)
        while batch := list(islice(pairs, BATCH_PAIRS)):
            try:
                rendered = self.encoder.render([pair for _, pair in batch])
            except TemplateLimitOfPair as error:
                name = next(name for name, pair in batch if pair is error.pair)
                raise DataError(f"{name}: {error.message}.", remedy=error.remedy) from error
            kept = []
            for (name, pair), texts in zip(batch, rendered, strict=True):
                if isinstance(texts, RowRejected):
                    self._drop(report, name, texts, content=pair)
                else:
                    kept.append((name, pair, texts))
            if kept:
                yield kept

    def _readable_rows(self, rows: Iterator[Row], format_: Format, report: SourceReport) -> Iterator[Row]:
        """Rows of text with their messages parsed; the others are dropped before formats group rows and choose columns."""
        for row in rows:
            value = row.value if format_.name == PLAIN_TEXT else parse_cells(row.value)
            try:
                if isinstance(value, dict):
                    check_text_only(value)
                    check_cells(value, () if format_.name == PLAIN_TEXT else format_.columns)
            except RowRejected as rejection:
                self._drop(report, row.name, rejection, content=row.value)
                continue
            report.notes["json_text_messages"] += value is not row.value
            yield Row(row.name, value)

    def _parse_rows(
        self, rows: Iterator[Row | GroupedRow] | Iterator[Row], format_: Format, source: Source, report: SourceReport
    ) -> Iterator[tuple[str, Pair]]:
        """Pairs of the rows with their names. One by one: a long conversation has many pairs, each with its history."""
        for row in rows:
            notes: Counter[str] = Counter()
            pairs = self._read_row(row, format_, notes)
            rows_of_pair = row.rows if isinstance(row, GroupedRow) and len(pairs) == 1 else 1
            kept, doubts = 0, set[str]()
            for name, pair in zip(pair_names(row.name, len(pairs)), pairs, strict=True):
                try:
                    if isinstance(pair, RowRejected):
                        raise pair
                    check_pair(pair, self.dataset.rules)
                    check_margin(pair, source.min_score_margin)
                    weighted = with_weight(pair, row.value, source)
                except RowRejected as rejection:
                    content = row.value if isinstance(pair, RowRejected) else pair
                    self._drop(report, name, rejection, rows_of_pair, content=content)
                    continue
                if not kept:
                    if isinstance(row, GroupedRow):
                        notes["rows_gathered"] = row.rows
                    if has_several_system_texts(row.value):
                        notes["second_system_column"] = 1
                    report.notes.update(notes)
                kept += 1
                if pair.scores is not None and pair.scores[0] <= pair.scores[1]:
                    doubts.add("score_below" if pair.scores[0] < pair.scores[1] else "score_equal")
                yield name, weighted
            if doubts:
                report.notes.update(doubts)
            if not kept:  # the numbers of rows and pairs must agree; the other notes are about rows that are trained
                report.notes.update({name: notes[name] for name in SEVERAL_PAIRS})

    def _read_row(self, row: Row | GroupedRow, format_: Format, notes: Counter[str]) -> list[Pair | RowRejected]:
        try:
            if not isinstance(row.value, dict):
                raise RowRejected(
                    "malformed", "the row is not an object with columns", "Write each row as an object with columns."
                )
            return read_pairs(row.value, format_, self.dataset, notes)
        except RowRejected as rejection:
            return [rejection]

    def _tokenize_batches(
        self, batches: Iterator[list[RenderedPair]], is_enough: Callable[[int], bool]
    ) -> Iterator[tuple[list[RenderedPair], list[PairTokens]]]:
        """Each batch with its token ids, in order. The tokenizer encodes on all cores while the caller makes the next batches.

        No batch is made while ``is_enough`` of the pairs that wait: every row that was read is kept, or counted as dropped.
        """
        workers = 2 if self.encoder.is_thread_safe else 1
        with ThreadPoolExecutor(workers, thread_name_prefix="tokenize") as executor:
            pending: deque[tuple[list[RenderedPair], Future[list[PairTokens]]]] = deque()
            for batch in batches:
                pending.append((batch, executor.submit(self.encoder.tokenize, [texts for *_, texts in batch])))
                while len(pending) > BATCHES_AHEAD or (pending and is_enough(sum(len(each) for each, _ in pending))):
                    oldest, tokens = pending.popleft()
                    yield oldest, tokens.result()
            for oldest, tokens in pending:
                yield oldest, tokens.result()

    def _truncate_batch(
        self, pairs: list[RenderedPair], tokens: list[PairTokens], report: SourceReport
    ) -> list[tuple[str, Pair, TruncatedPair]]:
        """Pairs within the maximum lengths; the others are counted as dropped."""
        kept, bos_id = [], self.encoder.tokenizer.bos_token_id
        for (name, pair, texts), ids in zip(pairs, tokens, strict=True):
            try:
                if self.dataset.rules.identical and ids.chosen == ids.rejected:
                    is_template = texts.chosen == texts.rejected
                    part = "the chat template writes" if is_template else "the tokenizer encodes"
                    raise RowRejected("identical_when_rendered", f"{part} both in the same way")
                truncated = truncate(
                    ids,
                    max_length=self.max_length,
                    max_prompt_length=self.max_prompt_length,
                    truncation_mode=self.dataset.truncation_mode,
                    drop_truncated=self.dataset.drop_truncated,
                    drop_identical=self.dataset.rules.identical,
                    bos_id=bos_id,
                )
                self._check_end_tokens(truncated)
            except RowRejected as rejection:
                self._drop(report, name, rejection, content=pair)
                continue
            kept.append((name, pair, truncated))
            report.kept += 1
            report.truncated_prompts += truncated.prompt_truncated
            report.truncated_completions += truncated.completions_truncated
            if texts.notes:
                report.notes.update(texts.notes)
            report.notes["special_token_spelled"] += bool(texts.placeholders)
            report.notes["chosen_is_number"] += is_number(pair.chosen_text)
            report.notes["rejected_is_number"] += is_number(pair.rejected_text)
        return kept

    def _drop(
        self, report: SourceReport, row: str, rejection: RowRejected, rows: int = 1, *, content: Any = None
    ) -> None:
        report.drop(row, rejection, rows)
        if self.dropped is not None:
            self.dropped.add(row, rejection, content)

    def _check_end_tokens(self, pair: TruncatedPair) -> None:
        """An end token ends its completion; only a text that was rendered elsewhere can contain one before its end."""
        for completion in (pair.chosen, pair.rejected):
            if not self.encoder.end_token_ids.isdisjoint(completion[:-1]):
                raise RowRejected("goes_on_after_end")


def _read_pair(
    read: Callable[[dict[str, Any], Counter[str]], Pair],
    text_pairs: TextPairs,
    row: dict[str, Any],
    notes: Counter[str],
) -> Pair:
    """Pair of a row, in the form in which it is trained: messages, or a text."""
    return text_pairs.convert(read(row, notes), notes)


def _printable(name: object) -> str:
    """Name of a column, which JSON can give half of a surrogate pair."""
    return str(name).encode("utf-8", "backslashreplace").decode("utf-8")


def _count_rows(rows: Iterator[Row], report: SourceReport) -> Iterator[Row]:
    for row in rows:
        report.rows_read += 1
        yield row
