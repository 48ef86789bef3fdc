"""The nearest existing path of a missing one."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.data_sources import ROWS, failure, lines, write

from orpo_cli.data.sources.nearest_path import nearest_path

FILES = ("data/pairs.jsonl", "data/train.jsonl.gz", "configs/r.yaml", "configs/local.jsonl", "data/deep/er/held.csv")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name, lines(ROWS))
    return folder


@pytest.mark.parametrize(
    ("missing", "near"),
    [
        ("data/pair.jsonl", "data/pairs.jsonl"),
        ("data/Pairs.JSONL", "data/pairs.jsonl"),
        ("data/pairs.json", "data/pairs.jsonl"),
        ("data/pairs", "data/pairs.jsonl"),
        ("data/train.jsonl", "data/train.jsonl.gz"),
        ("date/pairs.jsonl", "data/pairs.jsonl"),
        ("date/pair.jsonl", "data/pairs.jsonl"),
        ("local.jsonl", "configs/local.jsonl"),
        ("held.csv", "data/deep/er/held.csv"),
        ("x/y/held.csv", "data/deep/er/held.csv"),
        ("nothing-like-it.jsonl", None),
        ("data/pairs.jsonl/x", None),
    ],
)
def test_the_nearest_existing_path(missing: str, near: str | None, folder: Path) -> None:
    assert nearest_path(folder / missing) == (folder / near if near else None)


def test_a_missing_file_names_its_neighbour_or_the_files_of_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert str(failure("data/pair.jsonl").remedy).startswith(
        f"Did you mean {folder / 'data/pairs.jsonl'}? A relative path"
    )
    assert str(failure("data/zzz.parquet").remedy).startswith(
        f"The folder {folder / 'data'} has deep, pairs.jsonl, train.jsonl.gz. A relative path"
    )
    assert str(failure("q/zzz.parquet").remedy).startswith(f"The folder {folder} has no q. A relative path")
    assert failure("date/*.jsonl").remedy == f"Did you mean {folder / 'data'}?"
