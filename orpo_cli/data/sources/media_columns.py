"""Media columns of a loaded dataset, read as they are stored: a row with an image, audio or video is not trained.

``datasets`` decodes them while it reads a row, which needs further packages and hides the file from the check of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def keep_media_encoded(table: Any) -> None:
    """Switch off the decoding of all media of ``table``, a Dataset or IterableDataset: their values are bytes and path.

    A stream may not know its columns; then nothing is changed.
    """
    from datasets import Json

    for feature in _leaves(table.info.features):
        if hasattr(feature, "decode") and not isinstance(feature, Json):
            feature.decode = False


def _leaves(feature: Any) -> Iterator[Any]:
    """Every type of a value within lists and objects of ``feature``."""
    if isinstance(feature, dict):
        for each in feature.values():
            yield from _leaves(each)
    elif hasattr(feature, "feature"):  # a list
        yield from _leaves(feature.feature)
    else:
        yield feature
