"""Sources read as a list of rows, and files to read them from."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetInfo, Features, Image, List, Value

from orpo_cli.data.sources.sample import sample_rows
from orpo_cli.data.sources.source import open_source
from orpo_cli.errors import OrpoError
from orpo_cli.recipe.schema import Source
from support.tiny import pairs

ROWS = pairs(7)


def load(path: Path | str, **options: Any) -> list[tuple[str, Any]]:
    source = Source(path=str(path), **options)
    with open_source(source, Path(path).name, lambda _: None) as found:
        return [tuple(row) for row in sample_rows(found, source, seed=3).rows]  # type: ignore[misc]


def failure(path: Path | str, **options: Any) -> OrpoError:
    with pytest.raises(OrpoError) as caught:
        load(path, **options)
    return caught.value


def dataset_with_image() -> Dataset:
    """Two pairs in columns of ``datasets``, of which the first has an image."""
    texts = {name: Value("string") for name in ("prompt", "chosen", "rejected")}
    features = Features({**texts, "images": List(Image())})
    images: list[Any] = [[{"bytes": b"tea", "path": None}], []]
    rows = [{"prompt": "What is tea?", "chosen": "A drink.", "rejected": "A car.", "images": each} for each in images]
    return Dataset(pa.Table.from_pylist(rows, features.arrow_schema), info=DatasetInfo(features=features))


def lines(values: list[Any]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def write(path: Path, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path
