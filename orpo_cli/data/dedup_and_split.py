"""Deduplication and splitting: duplicates, leaked prompts, the train/eval split, and source weights of a pair table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from orpo_cli.data.table import PairTable
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

    The held-out pairs are those whose row names have the smallest digests with ``seed``: a pair that is added or removed (other
    lengths, another tokenizer) moves at most one other. A fraction is rounded up. Raises DataError where no train pair would
    be left.
    """
    size = math.ceil(split.test_size * len(table)) if isinstance(split.test_size, float) else split.test_size
    if size >= len(table):
        raise DataError(
            f"dataset.eval.test_size: {split.test_size} holds out {size:,} of {len(table):,} pairs and leaves none to train on.",
            remedy="Lower it.",
        )
    order = _seeded_order(table, f"{seed}")
    return table.select(np.sort(order[size:])), table.select(np.sort(order[:size]))


def apply_weights(table: PairTable, sources: Numbers, weights: list[float], seed: int) -> PairTable:
    """Pairs repeated by the weight of their source; ``sources`` is the index of each pair's source.

    Weight 2.5 uses every pair twice, and half of them, drawn with ``seed``, a third time.
    """
    positions = []
    for index, weight in enumerate(weights):
        of_source = np.flatnonzero(sources == index)
        repetitions, fraction = divmod(weight, 1)
        drawn = of_source[_seeded_order(table.select(of_source), f"{seed}:weight")[: round(fraction * len(of_source))]]
        positions += [*([of_source] * int(repetitions)), drawn]
    return table.select(np.sort(np.concatenate(positions)))


def _seeded_order(table: PairTable, salt: str) -> Numbers:
    """All positions, in an order that depends only on ``salt`` and the row names."""
    digests = np.array([sha256(f"{salt}:{row}".encode()).digest() for row in table.row_names()], dtype="S32")
    return np.argsort(digests, kind="stable")
