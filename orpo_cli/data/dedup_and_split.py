"""Deduplication and splitting: duplicates, leaked prompts, the train/eval split, and source weights of a pair table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from orpo_cli.data.table import PairTable
from orpo_cli.data.turns import row_of_pair
from orpo_cli.errors import DataError
from orpo_cli.recipe.schema import EvalSplit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from orpo_cli.data.table import Numbers


def find_duplicates(table: PairTable, column: str) -> tuple[Numbers, Numbers]:
    """Positions, ascending, of the pairs whose ``digest`` or ``prompt_key`` occurs earlier, and the position of the first of each.

    Full digests are compared only where their first 8 bytes are equal.
    """
    starts = table.digest_starts(column)
    ordered = np.sort(starts)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    candidates = _positions_in(starts, repeated)
    digests = table.select(candidates).digests(column)
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    first_of = first[inverse]
    later = np.flatnonzero(first_of != np.arange(len(digests)))
    return candidates[later], candidates[first_of[later]]


def find_leaked(train: PairTable, held_out: PairTable) -> Numbers:
    """Positions of train pairs whose prompt also occurs in ``held_out``."""
    column = "prompt_key"
    candidates = _positions_in(train.digest_starts(column), np.unique(held_out.digest_starts(column)))
    return candidates[np.isin(train.select(candidates).digests(column), held_out.digests(column))]


def split_train_eval(table: PairTable, split: EvalSplit, seed: int) -> tuple[PairTable, PairTable]:
    """Train pairs and held-out pairs, each in table order.

    The held-out pairs are those of the rows whose names have the smallest digests with ``seed``: a row that is added or removed
    (other lengths, another tokenizer) moves at most one other where each has one pair. All pairs of a row go to the same part,
    since they share their prompt or its start; so a few more may be held out than asked for. A fraction is rounded up. Raises
    DataError where no train pair would be left.
    """
    size = math.ceil(split.test_size * len(table)) if isinstance(split.test_size, float) else split.test_size
    is_held_out = np.ones(len(table), dtype=bool)
    if size < len(table):
        keys = table.split_keys()
        last = np.partition(keys, size - 1)[size - 1]  # the largest key that is held out
        is_held_out = keys < last
        at_last = np.flatnonzero(keys == last)
        names = table.select(at_last).row_names()
        count = size - int(is_held_out.sum())
        while count < len(at_last) and _are_of_one_row(names[count - 1], names[count]):
            count += 1
        is_held_out[at_last[:count]] = True
        size = int(is_held_out.sum())
    if size >= len(table):
        one_row = len({row_of_pair(name) for name in table.row_names()}) == 1
        raise DataError(
            f"dataset.eval.test_size: {split.test_size} holds out {size:,} of {len(table):,} pairs and leaves none to train on.",
            remedy="Give more rows: the pairs of one row are not split." if one_row else "Lower it.",
        )
    return table.select(np.flatnonzero(~is_held_out)), table.select(np.flatnonzero(is_held_out))


def apply_weights(table: PairTable, sources: Numbers, weights: list[float], seed: int) -> PairTable:
    """Pairs repeated by the weight of their source; ``sources`` is the index of each pair's source.

    Weight 2.5 uses every pair twice, and half of them, drawn with ``seed``, a third time.
    """
    positions = []
    keys = (
        table.row_keys(f"{seed}:weight") if any(weight % 1 for weight in weights) else np.zeros(len(table), np.uint64)
    )
    for index, weight in enumerate(weights):
        of_source = np.flatnonzero(sources == index)
        repetitions, fraction = divmod(weight, 1)
        order = np.argsort(keys[of_source], kind="stable")
        drawn = of_source[order[: round(fraction * len(of_source))]]
        positions += [*([of_source] * int(repetitions)), drawn]
    return table.select(np.sort(np.concatenate(positions)))


def _are_of_one_row(name: str, other: str) -> bool:
    """Whether two pairs are of one row that has several; a row that is read twice has its name twice."""
    return name != other and row_of_pair(name) == row_of_pair(other)


def _positions_in(values: NDArray[np.uint64], ascending: NDArray[np.uint64]) -> Numbers:
    """Positions of ``values`` that are in ``ascending``. In memory of the size of ``values``, which ``np.isin`` sorts with others."""
    if not len(ascending):
        return np.empty(0, np.int64)
    found = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return np.flatnonzero(ascending[found] == values)
