"""The pairs that are kept, as a file of Arrow columns and as the dataset that the trainer reads from it.

The file holds every token once: the prompt, and each answer without it. What trl's collator wants besides (whole sequences,
masks, labels) is made for the rows that are asked for, so a million pairs cost disk and hardly any memory.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from orpo_cli.data.pair import Pair
from orpo_cli.data.report import length_figures
from orpo_cli.data.tokenize import Fitted

if TYPE_CHECKING:
    from datasets import Dataset

ANSWERS = ("chosen", "rejected")
IDS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    {
        "row": pa.string(),  # source and row number
        "prompt_input_ids": IDS,
        "chosen_answer_ids": IDS,  # behind the prompt
        "rejected_answer_ids": IDS,
        "length": pa.int64(),  # tokens of the longer sequence, prompt included
        "digest": pa.binary(32),  # sha256 of the ids
        "prompt_json": pa.string(),  # for people: messages, or a text
        "chosen_text": pa.string(),
        "rejected_text": pa.string(),
    }
)


class PairWriter:
    """Writes pairs to an Arrow stream file, batch by batch. A context manager; the file is whole when it ends."""

    def __init__(self, path: Path) -> None:
        self._file = pa.OSFile(str(path), "wb")
        self._stream = pa.ipc.new_stream(self._file, SCHEMA)

    def __enter__(self) -> PairWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stream.close()
        self._file.close()

    def write(self, pairs: Sequence[tuple[str, Pair, Fitted]]) -> None:
        """Append pairs: the name of each row, its text, its ids. Raises OSError where the disk is full."""
        if not pairs:
            return
        columns = [
            [name for name, _, _ in pairs],
            [ids.prompt for *_, ids in pairs],
            [ids.chosen for *_, ids in pairs],
            [ids.rejected for *_, ids in pairs],
            [len(ids.prompt) + max(len(ids.chosen), len(ids.rejected)) for *_, ids in pairs],
            [_digest(ids) for *_, ids in pairs],
            [_prompt_json(pair) for _, pair, _ in pairs],
            [pair.chosen_text for _, pair, _ in pairs],
            [pair.rejected_text for _, pair, _ in pairs],
        ]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
        self._stream.write_batch(pa.record_batch(arrays, schema=SCHEMA))


class PairTable:
    """The pairs of some files that ``PairWriter`` wrote, one after the other, memory-mapped."""

    def __init__(self, files: Sequence[Path]) -> None:
        from datasets.table import MemoryMappedTable, concat_tables

        numbers = 0
        self._parts: list[Any] = []
        for file in files:
            with pa.memory_map(str(file)) as source:  # of a file without a batch, datasets could not map anything
                if pa.ipc.open_stream(source).read_all().num_rows:
                    self._parts.append(MemoryMappedTable.from_file(str(file)))
                    numbers += len(self._parts[-1])
        self._table = concat_tables(self._parts) if self._parts else None
        self._length = numbers

    def __len__(self) -> int:
        return self._length

    @property
    def rows(self) -> list[str]:
        """The name of every row: its source, and its number in there."""
        names: list[str] = self._column("row").to_pylist()
        return names

    def dataset(self, positions: Sequence[int] | None = None) -> Dataset:
        """The pairs at ``positions`` (all by default), in that order, with the columns of trl's ORPOTrainer.

        These are ``prompt_input_ids``, ``prompt_attention_mask``, and for chosen and rejected ``…_input_ids`` (prompt and
        answer), ``…_attention_mask`` and ``…_labels`` (-100 on the prompt); besides ``pair`` (running number), ``row``,
        ``length``, ``prompt_json``, ``chosen_text`` and ``rejected_text``.
        """
        from datasets import Dataset
        from datasets.table import InMemoryTable, concat_tables

        numbers = InMemoryTable(pa.table({"pair": pa.array(np.arange(len(self)))}))
        digest = hashlib.sha256(b"".join(self._column("digest").to_pylist())).hexdigest()
        whole = Dataset(concat_tables([numbers, self._table], axis=1), fingerprint=digest[:16])
        return (whole if positions is None else whole.select(positions)).with_transform(trainable)

    def fingerprint(self, positions: Sequence[int]) -> str:
        """sha256 over the token ids of these pairs, in their order."""
        return hashlib.sha256(
            b"".join(self._column("digest").take(pa.array(positions, pa.int64())).to_pylist())
        ).hexdigest()

    def lengths(self, positions: Sequence[int]) -> dict[str, dict[str, float]]:
        """Figures of the lengths in tokens of prompt, chosen and rejected answers."""
        columns = {"prompt": "prompt_input_ids", **{name: f"{name}_answer_ids" for name in ANSWERS}}
        taken = np.asarray(positions, dtype=np.int64)
        return {
            name: length_figures(pa.compute.list_value_length(self._column(column)).to_numpy()[taken])
            for name, column in columns.items()
        }

    def _column(self, name: str) -> Any:
        return self._table.column(name) if self._table is not None else pa.chunked_array([], SCHEMA.field(name).type)


def trainable(batch: dict[str, Any]) -> dict[str, Any]:
    """Some stored rows (a list a column) with the columns that trl's collator reads. A single column stays as it is."""
    if not {"prompt_input_ids", "chosen_answer_ids", "rejected_answer_ids"} <= batch.keys():
        return batch
    prompts = batch["prompt_input_ids"]
    stored = ("pair", "row", "prompt_input_ids", "length", "prompt_json", "chosen_text", "rejected_text")
    rows = {name: batch[name] for name in stored}
    rows["prompt_attention_mask"] = [[1] * len(prompt) for prompt in prompts]
    for name in ANSWERS:
        answers = batch[f"{name}_answer_ids"]
        rows[f"{name}_input_ids"] = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
        rows[f"{name}_attention_mask"] = [[1] * len(ids) for ids in rows[f"{name}_input_ids"]]
        rows[f"{name}_labels"] = [
            [-100] * len(prompt) + answer for prompt, answer in zip(prompts, answers, strict=True)
        ]
    return rows


def _digest(ids: Fitted) -> bytes:
    parts = (ids.prompt, ids.chosen, ids.rejected)
    return hashlib.sha256(b"".join(array("i", [len(part), *part]).tobytes() for part in parts)).digest()


def _prompt_json(pair: Pair) -> str:
    messages = pair.prompt if isinstance(pair.prompt, str) else [message.as_dict() for message in pair.prompt]
    return json.dumps(messages, ensure_ascii=False)
