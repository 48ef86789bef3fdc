"""Table of pairs: packed lengths, and duplicates, splits, digests and files compared with plain Python on random pairs."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from support.steps import random_pairs

from orpo_cli.data.dedup_and_split import apply_weights, find_duplicates, find_leaked, split_train_eval
from orpo_cli.data.pair import Pair
from orpo_cli.data.pair_writer import PairWriter, packed_length
from orpo_cli.data.table import PairTable, column_numbers
from orpo_cli.data.tokenize import TruncatedPair
from orpo_cli.data.turns import row_of_pair
from orpo_cli.errors import DataError
from orpo_cli.recipe.schema import EvalSplit
from orpo_cli.training.engine import packing

SEED = 42


def test_the_column_of_packed_lengths_equals_the_spans_of_the_pairs() -> None:
    for pair in (each for seed in range(20) for each in random_pairs(seed)):
        ids = TruncatedPair(*(each.tolist() for each in pair[1:4]), prompt_truncated=False, completions_truncated=0)
        assert packed_length(ids) == packing.packed_length(pair)
    equal = packing.TokenPair("", *(torch.tensor(ids) for ids in ([1, 2], [3, 4], [3, 4])))
    assert packed_length(TruncatedPair([1, 2], [3, 4], [3, 4], False, 0)) == packing.packed_length(equal)


def write_table(folder: Path, count: int, files: int = 2, *, weighted: bool = False) -> PairTable:
    """Random short pairs of rows with one to three pairs; about a tenth of them repeat earlier ones."""
    draw, paths = random.Random(count), []
    for number in range(files):
        paths.append(folder / f"{number}.arrow")
        with PairWriter(paths[-1], SEED) as writer:
            row, left = 0, count
            while left:
                pairs = []
                for _ in range(min(left, 50)):
                    row, name = row + 1, f"{number}.jsonl:{row}"
                    for part in range(draw.choice([1, 1, 1, 3])):
                        ids = [[draw.randint(0, 2) for _ in range(draw.randint(1, 3))] for _ in range(3)]
                        lengths = (len(ids[0]), len(ids[1]), len(ids[2]))
                        pair = Pair(str(ids[0]), "a", "b", weight=draw.choice([None, 1.0, 2.0]) if weighted else None)
                        pairs.append(
                            (f"{name}#{part + 1}" if part else name, pair, TruncatedPair(*ids, False, 0, lengths))
                        )
                writer.write(pairs)
                left -= min(left, 50)
    return PairTable(paths)


def expected_duplicates(digests: Sequence[bytes]) -> list[tuple[int, int]]:
    first: dict[bytes, int] = {}
    return [(at, first[each]) for at, each in enumerate(digests) if first.setdefault(each, at) != at]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> PairTable:
    return write_table(tmp_path_factory.mktemp("table"), 400)


@pytest.mark.parametrize("column", ["digest", "prompt_key"])
def test_duplicates_are_those_of_a_dictionary(table: PairTable, column: str) -> None:
    for part in (table, table.select(np.arange(len(table))[::-3])):
        raw = part._take(column).to_pylist()
        expected = expected_duplicates(raw)
        assert expected
        assert [(int(at), int(first)) for at, first in zip(*find_duplicates(part, column), strict=True)] == expected
        assert [each.ljust(len(raw[0]), b"\0") for each in part.digests(column).tolist()] == raw
    none = table.select([0])
    assert [len(each) for each in find_duplicates(none, column)] == [0, 0]


def test_leaked_pairs_are_those_of_a_set(table: PairTable) -> None:
    half = len(table) // 2
    train, held_out = table.select(range(half)), table.select(range(half, half + 20))
    prompts = set(held_out._take("prompt_key").to_pylist())
    expected = [at for at, key in enumerate(train._take("prompt_key").to_pylist()) if key in prompts]
    assert expected
    assert find_leaked(train, held_out).tolist() == expected


@pytest.mark.parametrize("test_size", [1, 7, 100, 0.05, 0.5])
def test_the_split_is_that_of_the_digests_of_the_rows(table: PairTable, test_size: float) -> None:
    names = table.row_names()
    digests = [hashlib.sha256(f"{SEED}:{row_of_pair(name)}".encode()).digest() for name in names]
    order = sorted(range(len(names)), key=lambda at: digests[at])
    size = test_size if isinstance(test_size, int) else -int(-test_size * len(names) // 1)
    while digests[order[size - 1]] == digests[order[size]]:
        size += 1
    train, held_out = split_train_eval(table, EvalSplit(test_size=test_size), SEED)
    assert held_out.pair_numbers.tolist() == sorted(order[:size])
    assert train.pair_numbers.tolist() == sorted(order[size:])


def test_a_split_that_leaves_no_train_pair_is_an_error(table: PairTable) -> None:
    for part, size, remedy in ((table, len(table), "Lower it."), (table.select([0]), 1, "Give more rows")):
        with pytest.raises(DataError, match="leaves none to train on") as caught:
            split_train_eval(part, EvalSplit(test_size=size), SEED)
        assert str(caught.value.remedy).startswith(remedy)


def test_fractions_of_a_weight_are_drawn_by_the_digests_of_the_rows(table: PairTable) -> None:
    names, sources = table.row_names(), table.source_indices()
    used = apply_weights(table, sources, [1.5, 1.0], SEED).pair_numbers.tolist()
    first = [at for at in range(len(names)) if sources[at] == 0]
    by_digest = sorted(first, key=lambda at: hashlib.sha256(f"{SEED}:weight:{names[at]}".encode()).digest())
    assert used == sorted([*range(len(names)), *by_digest[: round(0.5 * len(first))]])


@pytest.mark.parametrize("weighted", [False, True])
def test_the_fingerprint_covers_ids_weights_and_order(tmp_path: Path, weighted: bool) -> None:
    every = write_table(tmp_path, 60, weighted=weighted)
    for part in (every, every.select([5, 3, 3])):
        digests, weights = part._take("digest").to_pylist(), part._take("given_weight").to_pylist()
        expected = b"".join(
            ids if weight in (None, 1.0) else hashlib.sha256(ids + np.float64(weight).tobytes()).digest()
            for ids, weight in zip(digests, weights, strict=True)
        )
        assert part.training_digests().tobytes() == expected
        assert part.fingerprint() == hashlib.sha256(expected).hexdigest()


def test_a_dataset_has_the_selected_pairs(table: PairTable) -> None:
    positions = [3, 900, 4, 4]
    dataset = table.select(positions).dataset()
    assert dataset["row"][:] == [table.row_names()[at] for at in positions]
    assert dataset["pair"][:] == positions
    lengths = column_numbers(dataset, "length")
    assert lengths.tolist() == dataset["length"][:]
    assert table.dataset()[len(table) - 1]["row"] == table.row_names()[-1]


def test_a_saved_table_is_the_same_without_a_copy_of_its_files(table: PairTable, tmp_path: Path) -> None:
    for name, part in {"all": table, "some": table.select([7, 2, 2])}.items():
        part.save(tmp_path / name)
        loaded = PairTable.load(tmp_path / name)
        assert loaded.fingerprint() == part.fingerprint()
        assert loaded.dataset()[:] == part.dataset()[:]
    files = [*(tmp_path / "all").glob("*.arrow")]
    assert len(files) == 2
    assert all(each.samefile(file) for each, file in zip(sorted(files), table._files, strict=True))
