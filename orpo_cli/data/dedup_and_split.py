"""Deduplication and splitting: duplicates, leaked prompts, the train/eval split, and source weights of a pair table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from orpo_cli.data.table import PairTable
from orpo_cli.data.turns import row_of_pair
from orpo_cli.errors import DataError
from orpo_cli.recipe.schema import EvalSplit

if TYPE_CHECKING:
    from orpo_cli.data.table import Numbers


def find_duplicates(table: PairTable, column: str) -> Iterator[tuple[int, int]]:
    """(position, position of the first) of every pair whose ``digest`` or ``prompt_key`` occurs earlier, ascending."""
    digests = table.digests(column)
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    first_of = first[inverse]
    for position in np.flatnonzero(first_of != np.arange(len(digests))):
        yield int(position), int(first_of[position])


def find_leaked(train: PairTable, held_out: PairTable) -> Numbers:
    """Positions of train pairs whose prompt also occurs in ``held_out``."""
    return np.flatnonzero(np.isin(train.digests("prompt_key"), held_out.digests("prompt_key")))


def split_train_eval(table: PairTable, split: EvalSplit, seed: int) -> tuple[PairTable, PairTable]:
    """Train pairs and held-out pairs, each in table order.

    The held-out pairs are those of the rows whose names have the smallest digests with ``seed``: a row that is added or removed
    (other lengths, another tokenizer) moves at most one other where each has one pair. All pairs of a row go to the same part,
    since they share their prompt or its start; so a few more may be held out than asked for. A fraction is rounded up. Raises
    DataError where no train pair would be left.
    """
    size = math.ceil(split.test_size * len(table)) if isinstance(split.test_size, float) else split.test_size
    names = table.row_names()
    rows = [row_of_pair(name) for name in names]
    order = _seeded_order(rows, f"{seed}")
    while 0 < size < len(table) and _are_of_one_row(names[order[size - 1]], names[order[size]]):
        size += 1
    if size >= len(table):
        raise DataError(
            f"dataset.eval.test_size: {split.test_size} holds out {size:,} of {len(table):,} pairs and leaves none to train on.",
            remedy="Lower it." if len(set(rows)) > 1 else "Give more rows: the pairs of one row are not split.",
        )
    return table.select(np.sort(order[size:])), table.select(np.sort(order[:size]))


def apply_weights(table: PairTable, sources: Numbers, weights: list[float], seed: int) -> PairTable:
    """Pairs repeated by the weight of their source; ``sources`` is the index of each pair's source.

    Weight 2.5 uses every pair twice, and half of them, drawn with ``seed``, a third time.
    """
    positions = []
    for index, weight in enumerate(weights):
        of_source = np.flatnonzero(sources == index)
        repetitions, fraction = divmod(weight, 1)
        order = _seeded_order(table.select(of_source).row_names(), f"{seed}:weight")
        drawn = of_source[order[: round(fraction * len(of_source))]]
        positions += [*([of_source] * int(repetitions)), drawn]
    return table.select(np.sort(np.concatenate(positions)))


def _are_of_one_row(name: str, other: str) -> bool:
    """Whether two pairs are of one row that has several; a row that is read twice has its name twice."""
    return name != other and row_of_pair(name) == row_of_pair(other)


def _seeded_order(names: list[str], salt: str) -> Numbers:
    """All positions of ``names``, in an order that depends only on ``salt`` and the names."""
    digests = np.array([sha256(f"{salt}:{name}".encode()).digest() for name in names], dtype="S32")
    return np.argsort(digests, kind="stable")
