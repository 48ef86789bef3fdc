"""Row sampling: slices and max_samples."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.data_sources import ROWS, failure, lines, load, write
from support.tiny import pairs

from orpo_cli.data.sources.sample import sample_rows
from orpo_cli.data.sources.source import open_source
from orpo_cli.recipe.schema import Source


@pytest.mark.parametrize(
    ("split", "kept"),
    [("train[:3]", [0, 1, 2]), ("train[-2:]", [5, 6]), ("train[50%:]", [4, 5, 6]), ("train[2:4]", [2, 3])],
)
def test_slices_of_a_file(split: str, kept: list[int], tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", lines(ROWS))
    assert load(path, split=split) == [(f"x.jsonl:{index + 1}", ROWS[index]) for index in kept]


@pytest.mark.parametrize(
    ("split", "kept"), [("train[:3]+train[2:5]", range(5)), ("train[4:]+train[:2]", [0, 1, 4, 5, 6])]
)
def test_slices_that_overlap_give_each_row_once(split: str, kept: list[int], tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", lines(ROWS))
    assert [name for name, _ in load(path, split=split)] == [f"x.jsonl:{index + 1}" for index in kept]


def test_samples_of_several_slices_are_those_of_the_standard_library(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", lines(pairs(100)))
    rows = [*range(60, 100), *range(20)]
    drawn = [rows[at] for at in random.Random(3).sample(range(60), 15)]
    found = load(path, split="train[60:]+train[:20]", max_samples=15)
    assert [int(name.split(":")[1]) - 1 for name, _ in found] == sorted(drawn)


def test_an_invalid_slice_or_split_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", lines(ROWS))
    assert "no split test; it has train" in str(failure(path, split="test"))
    assert "cannot be read" in str(failure(path, split="train[a:b]"))


def test_max_samples_is_reproducible_and_keeps_the_order(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", lines(pairs(200)))
    first = load(path, max_samples=20)
    assert first == load(path, max_samples=20)
    numbers = [int(name.split(":")[1]) for name, _ in first]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == 20
    assert numbers != list(range(1, 21))
    source = Source(path=str(path), max_samples=20)
    with open_source(source, "x", lambda _: None) as found:
        assert [row.name for row in sample_rows(found, source, seed=4).rows] != [name for name, _ in first]
        assert sample_rows(found, source, seed=4).available == 200
    assert len(load(path, max_samples=500)) == 200
    assert all(int(name.split(":")[1]) > 100 for name, _ in load(path, max_samples=20, split="train[100:]"))
