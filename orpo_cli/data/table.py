"""Table of tokenized pairs: a memory-mapped file of Arrow columns, and the dataset that the trainer reads from it.

A row has every token once: the prompt, and each completion without it. Sequences, masks and labels as trl's collator needs
them are built by ``expand_pair`` only where they are padded (trl's own path, evaluation).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from orpo_cli.data.report import length_stats

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]

COMPLETIONS = ("chosen", "rejected")
PARTS = ("prompt", *COMPLETIONS)
DATASET_COLUMNS = (
    "pair", "row", "prompt_input_ids", "chosen_answer_ids", "rejected_answer_ids", "length", "packed_length", "prompt_json",
    "chosen_text", "rejected_text",
)  # fmt: skip
IDS = pa.list_(pa.int32())
NUMBERS_FILE = "pair_numbers.npy"
SCHEMA = pa.schema(
    {
        "row": pa.string(),  # source and row number
        "prompt_input_ids": IDS,
        "chosen_answer_ids": IDS,  # without the prompt
        "rejected_answer_ids": IDS,
        "length": pa.int64(),  # tokens of the longer sequence, prompt included
        "packed_length": pa.int32(),  # tokens in a packed row, see training.engine.packing
        "given_weight": pa.float64(),  # in the loss; null: 1
        **{f"uncut_{part}": pa.int32() for part in PARTS},  # tokens before truncation
        "digest": pa.binary(32),  # sha256 of the ids
        "prompt_key": pa.binary(16),  # of the prompt's text, without case and white space
        "split_key": pa.uint64(),  # of the seed and the row: the smallest are held out, see dedup_and_split
        "prompt_json": pa.string(),  # messages or a text, to show
        "chosen_text": pa.string(),
        "rejected_text": pa.string(),
    }
)


class PairTable:
    """Table of the pairs of several ``PairWriter`` files in sequence, memory-mapped; or a selection of them.

    Positions count the pairs of the table from 0. ``pair_numbers`` are positions in the files, which a selection keeps. Numbers
    and digests of all pairs are numpy arrays: Python objects would need several times the memory of the file.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        from datasets.table import MemoryMappedTable, concat_tables

        tables = [MemoryMappedTable.from_file(str(file)) if _has_batches(file) else None for file in files]
        counts = [len(table) if table is not None else 0 for table in tables]
        self._table = concat_tables([table for table in tables if table is not None]) if any(counts) else None
        self._file_of: Numbers = np.repeat(np.arange(len(files)), counts)
        self.pair_numbers: Numbers = np.arange(sum(counts))
        self._files = list(files)
        self._is_selection = False
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.pair_numbers)

    def select(self, positions: Sequence[int] | Numbers) -> PairTable:
        """Pairs at ``positions``, in that order; a position may occur several times."""
        selection = copy(self)
        selection.pair_numbers = self.pair_numbers[np.asarray(positions, dtype=np.int64)]
        selection._is_selection, selection._fingerprint = True, None
        return selection

    def save(self, folder: Path) -> None:
        """Write links to the files and the numbers of the pairs. Raises OSError."""
        folder.mkdir(parents=True)
        for number, file in enumerate(self._files):
            link = folder / f"{number:06}{file.suffix}"
            try:
                link.hardlink_to(file)  # the file stays when its cache entry is removed
            except OSError:  # on another file system
                link.symlink_to(file.absolute())
        np.save(folder / NUMBERS_FILE, self.pair_numbers)

    @classmethod
    def load(cls, folder: Path) -> PairTable:
        """The table that ``save`` wrote."""
        table = cls(sorted(folder.glob("*.arrow")))
        numbers: Numbers = np.load(folder / NUMBERS_FILE)
        return table if np.array_equal(numbers, table.pair_numbers) else table.select(numbers)

    def row_names(self) -> list[str]:
        """Row name of every pair: source and row number."""
        names: list[str] = self._take("row").to_pylist()
        return names

    def texts(self, position: int) -> tuple[str, str, str]:
        """Prompt, chosen and rejected text of a pair, without chat template."""
        number = int(self.pair_numbers[position])
        prompt, chosen, rejected = (
            self._column(name)[number].as_py() for name in ("prompt_json", "chosen_text", "rejected_text")
        )
        messages = json.loads(prompt)
        if not isinstance(messages, str):
            messages = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
        return messages, chosen, rejected

    def source_indices(self) -> Numbers:
        """Index of the file of every pair."""
        return self._file_of[self.pair_numbers]

    def digests(self, column: str) -> NDArray[np.bytes_]:
        """Column ``digest`` or ``prompt_key`` as an array of bytes."""
        digests: NDArray[np.bytes_] = self._views(column, np.dtype(f"S{SCHEMA.field(column).type.byte_width}"))
        return digests

    def digest_starts(self, column: str) -> NDArray[np.uint64]:
        """The first 8 bytes of every digest as a number: a quarter of the memory, and ten times as fast to sort."""
        width = SCHEMA.field(column).type.byte_width
        starts: NDArray[np.uint64] = self._views(
            column, np.dtype({"names": ["start"], "formats": ["u8"], "offsets": [0], "itemsize": width})
        )
        return starts

    def split_keys(self) -> NDArray[np.uint64]:
        """``row_keys`` of the rows of the pairs with the seed of the split, from the file."""
        keys: NDArray[np.uint64] = self._column("split_key").to_numpy()[self.pair_numbers]
        return keys

    def row_keys(self, salt: str) -> NDArray[np.uint64]:
        """A number for every pair that ``salt`` and its row name decide."""
        names = (name for chunk in self._column("row").chunks for name in chunk.to_pylist())
        keys = np.fromiter((row_key(name, salt) for name in names), np.uint64, len(self._file_of))
        return keys[self.pair_numbers]

    def dataset(self) -> Dataset:
        """The pairs as a dataset with the columns ``DATASET_COLUMNS``; ``expand_pair`` gives a row trl's columns.

        The column ``weight`` is there only where the weight of a pair is not 1.
        """
        from datasets import Dataset
        from datasets.table import InMemoryTable, concat_tables

        assert self._table is not None, "prepare raises an error for a table without pairs"
        columns, names = {"pair": pa.array(np.arange(len(self._table)))}, [*DATASET_COLUMNS]
        if self.is_weighted():
            columns["weight"] = self._column("given_weight").fill_null(1.0).combine_chunks()
            names.append("weight")
        computed = InMemoryTable(pa.table(columns))
        table = concat_tables([computed, self._table], axis=1)
        numbers = (
            InMemoryTable(pa.table({"indices": self.pair_numbers.astype(np.uint64)})) if self._is_selection else None
        )
        return Dataset(table, fingerprint=self.fingerprint()[:16], indices_table=numbers).select_columns(names)

    def is_weighted(self) -> bool:
        """Whether the weight of a pair is not 1."""
        given = self._column("given_weight")
        return given.null_count < len(given) and bool((self.weights() != 1.0).any())

    def weights(self) -> NDArray[np.float64]:
        """Weight of every pair in the loss."""
        weights: NDArray[np.float64] = self._take("given_weight").fill_null(1.0).to_numpy()
        return weights

    def weight_stats(self) -> dict[str, float]:
        """Statistics of the weights; empty where all are 1. ``effective_pairs``: (sum of w)² / sum of w² (Kish)."""
        if not self.is_weighted():
            return {}
        weights = self.weights()
        return {
            "min": float(weights.min()),
            "mean": float(weights.mean()),
            "max": float(weights.max()),
            "effective_pairs": round(float(weights.sum() ** 2 / (weights**2).sum()), 1),
        }

    def fingerprint(self) -> str:
        """sha256 of the token ids and weights of these pairs, in their order."""
        if self._fingerprint is None:
            self._fingerprint = hashlib.sha256(self.training_digests().view(np.uint8).data).hexdigest()
        return self._fingerprint

    def training_digests(self) -> NDArray[np.bytes_]:
        """Digests of the token ids and the weight of every pair as an array of bytes."""
        digests = self.digests("digest")
        if self.is_weighted():
            weights, rows = self.weights(), digests.view(np.uint8).reshape(len(digests), -1)
            for position in np.flatnonzero(weights != 1.0):
                digests[position] = hashlib.sha256(rows[position].tobytes() + weights[position].tobytes()).digest()
        return digests

    def length_stats(self) -> dict[str, dict[str, float]]:
        """Statistics of the lengths of prompts, chosen and rejected completions (tokens)."""
        return {name: length_stats(self.token_counts(name)) for name in PARTS}

    def token_counts(self, part: str) -> Numbers:
        """Number of tokens of every ``prompt``, ``chosen`` or ``rejected`` completion (without the prompt)."""
        column = self._column("prompt_input_ids" if part == "prompt" else f"{part}_answer_ids")
        lengths: Numbers = compute.list_value_length(column).to_numpy()[self.pair_numbers]
        return lengths

    def full_token_counts(self, part: str) -> Numbers:
        """Number of tokens before truncation."""
        lengths: Numbers = self._column(f"uncut_{part}").to_numpy()[self.pair_numbers]
        return lengths

    def _views(self, name: str, dtype: np.dtype[Any]) -> Any:
        """Values of ``dtype`` at the start of every digest of a column."""
        if not len(self.pair_numbers):
            return np.empty(0, dtype["start"] if dtype.names else dtype)
        buffers = [(np.frombuffer(each.buffers()[1], dtype), each) for each in self._column(name).chunks]
        views = [(values["start"] if dtype.names else values)[each.offset :][: len(each)] for values, each in buffers]
        every = np.concatenate(views)
        return every[self.pair_numbers] if self._is_selection else every

    def _take(self, name: str) -> Any:
        return self._column(name).take(pa.array(self.pair_numbers))

    def _column(self, name: str) -> Any:
        return self._table.column(name) if self._table is not None else pa.chunked_array([], SCHEMA.field(name).type)


def _has_batches(file: Path) -> bool:
    """Whether the file has a batch: ``datasets`` cannot map one without."""
    with pa.memory_map(str(file)) as source:
        return next(iter(pa.ipc.open_stream(source)), None) is not None


def expand_pair(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the columns that the data collator of trl's ORPOTrainer pads.

    These are ``prompt_input_ids``, ``prompt_attention_mask``, and for chosen and rejected ``…_input_ids`` (prompt and
    completion), ``…_attention_mask`` and ``…_labels`` (-100 on the prompt). Other columns stay as they are.
    """
    prompt = list(row["prompt_input_ids"])
    expanded = {**row, "prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
    for name in COMPLETIONS:
        completion = list(expanded.pop(f"{name}_answer_ids"))
        expanded[f"{name}_input_ids"] = prompt + completion
        expanded[f"{name}_attention_mask"] = [1] * len(prompt + completion)
        expanded[f"{name}_labels"] = [-100] * len(prompt) + completion
    return expanded


def column_numbers(dataset: Dataset, name: str) -> Numbers:
    """A column of numbers of ``PairTable.dataset`` as an array; the column itself reads row by row, or makes Python numbers."""
    values: Numbers = dataset.data.column(name).to_numpy()
    selected = dataset._indices
    return values if selected is None else values[selected.column(0).to_numpy()]


def row_key(name: str, salt: str) -> int:
    """A number of 64 bits that ``salt`` and the name of a row decide."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{name}".encode()).digest()[:8], "big")
