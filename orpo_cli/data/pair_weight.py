"""Pair weight: the factor of a pair in both terms of the loss, from a column of the data or from its scores.

The means of a step are weighted means, so only the ratios of the weights matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orpo_cli.data.formats.format import Format, parse_number
from orpo_cli.data.pair import Pair, RowRejected
from orpo_cli.errors import DataError
from orpo_cli.recipe.schema import Source

WEIGHT_COLUMN = "weight"
LIMITS = (1e-6, 1e6)  # sums of a step in float32 stay exact enough, and finite


def check_weight_source(source: Source, format_: Format, where: str) -> None:
    """Raise DataError where a column of weights cannot apply: a pair of several rows has several weights."""
    if WEIGHT_COLUMN in source.columns and format_.group is not None:
        raise DataError(
            f"{where}: columns: weight is given for the format {format_.name}, whose pairs are made of several rows.",
            remedy="Remove it, or write one row a pair with prompt, chosen, rejected and weight.",
        )


def with_weight(pair: Pair, row: Mapping[str, Any], source: Source) -> Pair:
    """``pair`` with its weight. Raises RowRejected where the row has no weight or scores, or its weight is not within ``LIMITS``."""
    if source.weight_by == "score_margin":
        if pair.scores is None:
            raise RowRejected("no_score")
        weight: float | None = pair.scores[0] - pair.scores[1]
        found = f"the scores are {pair.scores[0]:g} and {pair.scores[1]:g}"
    elif WEIGHT_COLUMN in source.columns:
        value = row.get(WEIGHT_COLUMN)
        weight, found = parse_number(value), f"{source.columns[WEIGHT_COLUMN]} is {value!r}"
    else:
        return pair
    if weight is None or not LIMITS[0] <= weight <= LIMITS[1]:
        raise RowRejected("no_weight", found)
    return replace(pair, weight=weight)
