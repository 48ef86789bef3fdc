"""Rows of Parquet and Arrow files, validated before use and limited in size.

pyarrow trusts the lengths and offsets in a file: a damaged one ends the process with a segmentation fault or, if it is
memory-mapped, a bus error. So Arrow files are not mapped, and every batch is validated in full (0.1 s for 150 MB).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orpo_cli.data.sources.arrow_nulls import null_remover
from orpo_cli.data.sources.row_limit import RowLimit

BATCH_ROWS = 64  # rows of Parquet decoded at once: many rows can repeat one stored value of megabytes
SLICE_ROWS = 256  # rows converted to Python objects at once
SHARING_TYPES = ("dictionary<", "_view", "run_end_encoded<")  # rows of these can repeat one stored value


def parquet_rows(path: Path, limit: RowLimit, columns: Mapping[str, str]) -> Iterator[tuple[int, Any]]:
    """Rows of a Parquet file, numbered from 1. ``columns``: the recipe's mapping, for ``null_remover``."""
    from pyarrow import parquet

    with parquet.ParquetFile(path, page_checksum_verification=True) as file:
        yield from _rows(map(_validated, file.iter_batches(batch_size=BATCH_ROWS)), path, limit, columns)


def arrow_rows(path: Path, limit: RowLimit, columns: Mapping[str, str]) -> Iterator[tuple[int, Any]]:
    """Rows of Arrow's stream format (what ``datasets`` writes) or its file format (Feather 2), numbered from 1."""
    yield from _rows(arrow_batches(path), path, limit, columns)


def arrow_batches(path: Path) -> Iterator[Any]:
    """Record batches of an Arrow file, each validated."""
    import pyarrow

    with pyarrow.OSFile(str(path)) as source:
        is_file_format = source.read(6) == b"ARROW1"
        source.seek(0)
        reader = pyarrow.ipc.open_file(source) if is_file_format else pyarrow.ipc.open_stream(source)
        batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file_format else iter(reader)
        yield from map(_validated, batches)


def _validated(batch: Any) -> Any:
    batch.validate(full=True)
    return batch


def _rows(batches: Iterator[Any], path: Path, limit: RowLimit, columns: Mapping[str, str]) -> Iterator[tuple[int, Any]]:
    number, remove_nulls = 0, None
    for batch in batches:
        remove_nulls = remove_nulls or null_remover(batch.schema, columns)  # all batches of a file have one schema
        shares = any(name in str(kind) for kind in batch.schema.types for name in SHARING_TYPES)
        for start in range(0, batch.num_rows, SLICE_ROWS):
            part = batch.slice(start, SLICE_ROWS)
            size = part.nbytes * (part.num_rows if shares else 1)
            rows = part.to_pylist() if size <= limit.size else _one_by_one(part)
            for row in rows:
                number += 1
                if size > limit.size and value_bytes(row) > limit.size:
                    raise limit.error(f"{path}: row {number}")
                yield number, remove_nulls(row)


def _one_by_one(batch: Any) -> Iterator[Any]:
    return (batch.slice(at, 1).to_pylist()[0] for at in range(batch.num_rows))


def value_bytes(value: Any) -> int:
    """Bytes of the texts and numbers in ``value``, about as Arrow stores them."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(value_bytes, value.values()))
    return sum(map(value_bytes, value)) if isinstance(value, list) else 8
