"""File sizes as users write them."""

from __future__ import annotations

import pytest

from orpo_cli.errors import UsageError
from orpo_cli.model.file_size import parse_size


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("1.5 gib", 3 * 2**29), ("512MiB", 2**29), ("2TB", 2 * 10**12)]
)
def test_sizes_in_decimal_and_binary_units_are_parsed(text, size):
    assert parse_size(text, "--memory") == size


@pytest.mark.parametrize("text", ["", "5", "5 bytes", "GB", "0GB", "-1GB"])
def test_other_text_is_refused_with_the_name_of_the_option(text):
    with pytest.raises(UsageError, match="--memory"):
        parse_size(text, "--memory")
