"""The pairs that are kept, as the table that the trainer reads."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orpo_cli.data.pair import Pair
from orpo_cli.data.report import length_figures
from orpo_cli.data.tokenize import Fitted

if TYPE_CHECKING:
    from datasets import Dataset

FLUSH = 512  # pairs held as Python lists before they become an Arrow table
ANSWERS = ("chosen", "rejected")


class PairTable:
    """Collects pairs and gives them back as a ``datasets.Dataset`` in memory; writes no file.

    Columns: ``pair`` (running number), ``row`` (source and row number), ``prompt_input_ids``, ``prompt_attention_mask``,
    and for chosen and rejected ``…_input_ids`` (prompt and answer), ``…_attention_mask`` and ``…_labels`` (-100 on the
    prompt), as trl's ORPOTrainer makes them; ``length`` (tokens of the longer sequence); ``prompt_json`` (messages or a
    text), ``chosen_text`` and ``rejected_text`` for people. ``rows`` holds the names of the rows.
    """

    def __init__(self) -> None:
        self.rows: list[str] = []
        self._batch: list[dict[str, Any]] = []
        self._tables: list[Dataset] = []
        self._digests: list[bytes] = []
        self._lengths = {name: array("l") for name in ("prompt", *ANSWERS)}

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: str, pair: Pair, fitted: Fitted) -> None:
        """Append a pair."""
        prompt = fitted.prompt
        columns: dict[str, Any] = {
            "pair": len(self),
            "row": row,
            "prompt_input_ids": prompt,
            "prompt_attention_mask": [1] * len(prompt),
        }
        digest = hashlib.sha256(array("i", [len(prompt), *prompt]).tobytes())
        self._lengths["prompt"].append(len(prompt))
        for name, answer in zip(ANSWERS, (fitted.chosen, fitted.rejected), strict=True):
            columns[f"{name}_input_ids"] = prompt + answer
            columns[f"{name}_attention_mask"] = [1] * (len(prompt) + len(answer))
            columns[f"{name}_labels"] = [-100] * len(prompt) + answer
            digest.update(array("i", [len(answer), *answer]).tobytes())
            self._lengths[name].append(len(answer))
        columns["length"] = len(prompt) + max(len(fitted.chosen), len(fitted.rejected))
        messages = pair.prompt if isinstance(pair.prompt, str) else [message._asdict() for message in pair.prompt]
        columns["prompt_json"] = json.dumps(messages, ensure_ascii=False)
        columns["chosen_text"], columns["rejected_text"] = pair.chosen_text, pair.rejected_text
        self.rows.append(row)
        self._digests.append(digest.digest())
        self._batch.append(columns)
        if len(self._batch) == FLUSH:
            self._flush()

    def dataset(self, positions: Sequence[int] | None = None) -> Dataset:
        """The pairs at ``positions`` (all by default), in that order."""
        from datasets import concatenate_datasets

        if self._batch or not self._tables:
            self._flush()
        whole = concatenate_datasets(self._tables)
        return whole if positions is None else whole.select(positions)

    def fingerprint(self, positions: Sequence[int]) -> str:
        """sha256 over the token ids of these pairs, in their order."""
        return hashlib.sha256(b"".join(self._digests[position] for position in positions)).hexdigest()

    def lengths(self, positions: Sequence[int]) -> dict[str, dict[str, float]]:
        """Figures of the lengths in tokens of prompt, chosen and rejected answers."""
        return {
            name: length_figures([lengths[position] for position in positions])
            for name, lengths in self._lengths.items()
        }

    def _flush(self) -> None:
        from datasets import Dataset, Features, List, Value

        ids, mask, text, number = List(Value("int32")), List(Value("int8")), Value("string"), Value("int64")
        kinds = {
            "pair": number,
            "length": number,
            "row": text,
            "prompt_json": text,
            "chosen_text": text,
            "rejected_text": text,
        }
        for name in ("prompt", *ANSWERS):
            kinds |= {f"{name}_input_ids": ids, f"{name}_attention_mask": mask}
        kinds |= {f"{name}_labels": ids for name in ANSWERS}
        self._tables.append(
            Dataset.from_dict({name: [row[name] for row in self._batch] for name in kinds}, features=Features(kinds))
        )
        self._batch = []
