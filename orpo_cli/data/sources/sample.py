"""Row sampling: the split of a source, its slice, and ``max_samples`` rows of it drawn with a seed."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, compress, islice

import numpy as np
from numpy.typing import NDArray

from orpo_cli.data.sources.opened import OpenedSource, Row, Rows
from orpo_cli.errors import DataError
from orpo_cli.recipe.schema import Source


@dataclass(frozen=True)
class SampledRows:
    """Rows that a source contributes. ``available``: rows of the split that max_samples drew from, else None."""

    rows: Iterator[Row]
    available: int | None


def sample_rows(opened: OpenedSource, source: Source, seed: int, *, together: bool = False) -> SampledRows:
    """Rows of ``source.split``, of which ``max_samples`` are drawn with ``seed`` before any filter.

    The drawn rows keep the order of the source; the same seed and the same rows give the same sample. ``together``: rows that
    follow each other, from a drawn place, because several rows of one prompt form a pair.
    """
    if source.streaming:
        return SampledRows(_first_rows(opened, source), available=None)
    from datasets import ReadInstruction

    wanted = {re.split(r"[\[(]", part.strip())[0] for part in source.split.split("+")}
    unknown = wanted - set(opened.splits)
    if unknown:
        raise DataError(
            f"{source.path}: no split {', '.join(sorted(unknown))}; it has {', '.join(opened.splits)}.",
            remedy="Set split to one of these, optionally with a slice: train[:100]. A single file has only the split train.",
        )
    if source.split in opened.splits and source.max_samples is None:
        return SampledRows(opened.splits[source.split](), available=None)
    counts = {split: sum(1 for _ in opened.splits[split]()) for split in sorted(wanted)}
    try:
        parts = ReadInstruction.from_spec(source.split).to_absolute(counts)
    except (AssertionError, ValueError) as error:
        raise DataError(
            f"{source.path}: split {source.split!r} cannot be read: {error}",
            remedy="Write it as train[:100] or train[10%:20%].",
        ) from error
    ranges = [(part.splitname, range(part.from_ or 0, part.to or 0)) for part in parts]
    available = sum(len(each) for _, each in ranges)
    drawn = None
    if source.max_samples is not None and source.max_samples < available:
        draw, count = random.Random(seed), source.max_samples
        start = draw.randrange(available - count + 1) if together else 0
        drawn = np.arange(start, start + count) if together else np.array(draw.sample(range(available), count))
    kept = {split: np.zeros(counts[split], dtype=bool) for split, _ in ranges}  # a byte a row
    before = 0
    for split, each in ranges:
        if drawn is None:
            kept[split][each.start : each.stop] = True
        else:
            kept[split][each.start + drawn[(drawn >= before) & (drawn < before + len(each))] - before] = True
        before += len(each)
    rows = chain.from_iterable(_rows_at(opened.splits[split], mask) for split, mask in kept.items())
    return SampledRows(rows, available=available if source.max_samples is not None else None)


def _rows_at(rows: Rows, mask: NDArray[np.bool_]) -> Iterator[Row]:
    """Rows of a split where ``mask`` is true; those after the last one are not read."""
    positions = np.flatnonzero(mask)
    end = int(positions[-1]) + 1 if len(positions) else 0
    return compress(islice(rows(), end), mask[:end].tobytes())


def _first_rows(opened: OpenedSource, source: Source) -> Iterator[Row]:
    """Rows of a streamed split from its start, at most ``max_samples``."""
    if source.split not in opened.splits:
        raise DataError(
            f"{source.path}: a streamed source has no split {source.split}; it has {', '.join(opened.splits)}.",
            remedy="Name one of these, without a slice: the number of rows of a stream is not known before its end.",
        )
    return islice(opened.splits[source.split](), source.max_samples)
