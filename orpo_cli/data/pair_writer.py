"""Writer of tokenized pairs to the Arrow file that ``PairTable`` reads, with the digests and lengths of each pair."""

from __future__ import annotations

import hashlib
import json
import sys
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa

from orpo_cli.data.pair import Pair
from orpo_cli.data.table import PARTS, SCHEMA, row_key
from orpo_cli.data.tokenize import TruncatedPair
from orpo_cli.data.turns import row_of_pair

WRITE_BATCH_BYTES = 32 << 20  # bytes


class PairWriter:
    """Writer of pairs to an Arrow stream file, in batches of ``WRITE_BATCH_BYTES``; the file is complete when the context ends.

    ``seed``: of the split into train and eval pairs. A column is contiguous within a batch. In small batches the columns
    would be so interleaved that reading one column maps nearly the full file into memory.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self._seed = seed
        self._file = pa.OSFile(str(path), "wb")
        self._stream = pa.ipc.new_stream(self._file, SCHEMA)
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0

    def __enter__(self) -> PairWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._file, self._stream:
            if error is None:
                self._flush()

    def write(self, pairs: Sequence[tuple[str, Pair, TruncatedPair]]) -> None:
        """Append pairs, each with its row name and token ids. Raises OSError where the disk is full."""
        if not pairs:
            return
        parts = [TokenColumn([getattr(ids, part) for *_, ids in pairs]) for part in PARTS]
        others = [
            [len(ids.prompt) + max(len(ids.chosen), len(ids.rejected)) for *_, ids in pairs],
            [packed_length(ids) for *_, ids in pairs],
            [pair.weight for _, pair, _ in pairs],
            *([ids.full_lengths[part] for *_, ids in pairs] for part in range(len(PARTS))),
            [_digest(row) for row in zip(*(part.bytes_of_rows() for part in parts), strict=True)],
            [prompt_key(pair) for _, pair, _ in pairs],
            [row_key(row_of_pair(name), f"{self._seed}") for name, _, _ in pairs],
            [_prompt_json(pair) for _, pair, _ in pairs],
            [pair.chosen_text for _, pair, _ in pairs],
            [pair.rejected_text for _, pair, _ in pairs],
        ]
        ids = [part.arrow() for part in parts]
        fields = list(SCHEMA)[1 + len(ids) :]
        arrays = [pa.array([name for name, _, _ in pairs]), *ids]
        arrays += [pa.array(values, field.type) for values, field in zip(others, fields, strict=True)]
        self._pending.append(pa.record_batch(arrays, schema=SCHEMA))
        self._pending_bytes += self._pending[-1].nbytes
        if self._pending_bytes >= WRITE_BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._stream.write_table(pa.Table.from_batches(self._pending).combine_chunks())
        self._pending, self._pending_bytes = [], 0


class TokenColumn:
    """Token ids of one part of each pair, in sequence: pyarrow is slower with lists of lists, and the digests need the bytes, too."""

    def __init__(self, rows: Sequence[list[int]]) -> None:
        self._ids, self._ends = array("i"), array("i", [0])
        for row in rows:
            self._ids.fromlist(row)
            self._ends.append(len(self._ids))

    def arrow(self) -> pa.ListArray:
        """Array of one list of 32-bit ids a pair."""
        return pa.ListArray.from_arrays(np.array(self._ends), np.array(self._ids))

    def bytes_of_rows(self) -> Iterator[bytes]:
        """Number of tokens and ids of each pair, 4 bytes each."""
        ids = memoryview(self._ids).cast("B")
        for start, end in pairwise(self._ends):
            yield (end - start).to_bytes(4, sys.byteorder) + ids[4 * start : 4 * end]


def packed_length(ids: TruncatedPair) -> int:
    """Tokens that a pair takes in a packed row, where the prompt and equal first tokens of both completions are once."""
    shorter, longer = sorted((ids.chosen, ids.rejected), key=len)
    equal = next(
        (at for at, (one, other) in enumerate(zip(shorter, longer, strict=False)) if one != other), len(shorter)
    )
    rest = sum(max(0, len(completion) - 1 - equal) for completion in (shorter, longer))
    return len(ids.prompt) + min(equal, len(longer) - 1) + rest


def prompt_key(pair: Pair) -> bytes:
    """Digest of the prompt's roles and text, without case and white space."""
    turns = (
        pair.prompt
        if isinstance(pair.prompt, str)
        else "\n".join(f"{each.role}: {each.content}" for each in pair.prompt)
    )
    text = " ".join(unicodedata.normalize("NFKC", turns).casefold().split())
    return hashlib.sha256(text.encode()).digest()[:16]


def _digest(parts: Sequence[bytes]) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def _prompt_json(pair: Pair) -> str:
    messages = pair.prompt if isinstance(pair.prompt, str) else [message.as_dict() for message in pair.prompt]
    return json.dumps(messages, ensure_ascii=False)
