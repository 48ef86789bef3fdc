"""Which pairs of a table are trained on: without duplicates, apart from the held-out ones, as often as their weight says."""

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
    """(position, position of the first) of every pair whose ``digest`` or ``prompt_key`` came before, in ascending order."""
    keys = table.digests(column)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    of = first[inverse]
    for position in np.flatnonzero(of != np.arange(len(keys))):
        yield int(position), int(of[position])


def find_leaked(train: PairTable, held_out: PairTable) -> Numbers:
    """The positions of training pairs whose prompt is held out, too."""
    return np.flatnonzero(np.isin(train.digests("prompt_key"), held_out.digests("prompt_key")))


def split_train_eval(table: PairTable, split: EvalSplit, seed: int) -> tuple[PairTable, PairTable]:
    """The pairs to train on and the pairs held out, each in their order.

    Held out are the pairs whose row names have the smallest digests together with ``seed``: a pair that comes or goes
    (other lengths, another tokenizer) moves at most one other. A share is rounded up. Raises DataError where nothing would
    be left to train on.
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
    """The pairs as often as the weight of their source says; ``sources`` is the index of each pair's source.

    Weight 2.5 uses every pair twice, and half of them, drawn with ``seed``, once more.
    """
    positions = []
    for index, weight in enumerate(weights):
        own = np.flatnonzero(sources == index)
        whole, part = divmod(weight, 1)
        drawn = own[_seeded_order(table.select(own), f"{seed}:weight")[: round(part * len(own))]]
        positions += [*([own] * int(whole)), drawn]
    return table.select(np.sort(np.concatenate(positions)))


def _seeded_order(table: PairTable, salt: str) -> Numbers:
    """All positions, in an order that depends on ``salt`` and on the names of the rows alone."""
    digests = np.array([sha256(f"{salt}:{row}".encode()).digest() for row in table.row_names()], dtype="S32")
    return np.argsort(digests, kind="stable")
