"""Default values by the size of the model, and how a reason names the size."""

from __future__ import annotations

import pytest

from orpo_cli.planning.size_defaults import defaults_for_size


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        (49_280, "49,280 parameters"),
        (1_500_000, "1.5M parameters"),
        (134_515_008, "135M parameters"),
        (8_030_261_248, "8B parameters"),
    ],
)
def test_the_reason_names_the_size(parameters: int, text: str) -> None:
    assert defaults_for_size(parameters)[1] == text
