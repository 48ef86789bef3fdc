"""Names of datasets that were in memory: only their files in the cache have one."""

from __future__ import annotations

from pathlib import Path

import pytest

from orpo_cli.memory_dataset import DATA_FILE, memory_dataset_folder, source_label

DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("rows", "label"), [(0, "(0 rows)"), (1, "(1 row)"), (12, "(12 rows)"), (1234567, "(1,234,567 rows)")]
)
def test_the_file_of_a_dataset_is_named_by_its_rows(rows: int, label: str) -> None:
    path = memory_dataset_folder(Path("/home/me/.cache/orpo"), DIGEST, rows) / DATA_FILE
    assert source_label(str(path)) == f"dataset in memory {label}"


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
