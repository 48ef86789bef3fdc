"""Names of datasets that were in memory: only their files in the cache have one."""

from __future__ import annotations

from pathlib import Path

import pytest

from orpo_cli.memory_dataset import argument_of, memory_dataset_file, source_label

DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("rows", "label"), [(0, "(0 rows)"), (1, "(1 row)"), (12, "(12 rows)"), (1234567, "(1,234,567 rows)")]
)
def test_the_file_of_a_dataset_is_named_by_its_rows(rows: int, label: str) -> None:
    path = memory_dataset_file(Path("/home/me/.cache/orpo"), DIGEST, rows, "train_dataset")
    assert source_label(str(path)) == f"dataset in memory {label}"
    assert argument_of(str(path)) == "train_dataset"


@pytest.mark.parametrize(
    "path",
    [
        "data/pairs.parquet",
        "/data/datasets/pairs.parquet",
        f"/x/datasets/{DIGEST[:32]}-3/other.parquet",
        f"/x/models/{DIGEST[:32]}-3/pairs.parquet",
        "someone/dataset",
        "",
    ],
)
def test_other_sources_keep_their_names(path: str) -> None:
    assert source_label(path) == path
    assert argument_of(path) is None
