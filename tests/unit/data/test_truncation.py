"""Truncation of pairs longer than the limits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpo_cli.data.pair import RowRejected
from orpo_cli.data.tokenize import PairTokens, truncate

FIT = {"max_length": 7, "max_prompt_length": 4, "truncation_mode": "keep_end", "bos_id": None}


def test_truncation_modes_of_a_long_prompt() -> None:
    tokens = PairTokens([1, 5, 6, 7, 8, 9], [20, 2], [21, 22, 2])
    assert truncate(tokens, **FIT).prompt == [6, 7, 8, 9]  # type: ignore[arg-type]
    assert truncate(tokens, **{**FIT, "bos_id": 1}).prompt == [1, 7, 8, 9]  # type: ignore[arg-type]
    assert truncate(tokens, **{**FIT, "truncation_mode": "keep_start"}).prompt == [1, 5, 6, 7]  # type: ignore[arg-type]
    assert truncate(tokens, **FIT).prompt_truncated  # type: ignore[arg-type]
    with pytest.raises(RowRejected) as caught:
        truncate(tokens, **{**FIT, "truncation_mode": "drop"})  # type: ignore[arg-type]
    assert caught.value.reason == "prompt_too_long"


@pytest.mark.parametrize("mode", ["keep_end", "keep_start", "drop"])
def test_a_pair_that_fits_is_not_truncated(mode: str) -> None:
    tokens = PairTokens([1, 5, 6, 7, 8, 9], [20, 2], [21, 22, 2])
    truncated = truncate(tokens, **{**FIT, "max_length": 9, "truncation_mode": mode})  # type: ignore[arg-type]
    assert truncated[:3] == tokens
    assert not truncated.prompt_truncated


def test_a_bos_of_every_turn_is_not_kept_by_truncation() -> None:
    tokens = PairTokens([1, 5, 6, 1, 7, 8], [20, 2], [21, 2])
    assert truncate(tokens, **{**FIT, "bos_id": 1}).prompt == [6, 1, 7, 8]  # type: ignore[arg-type]


@given(
    prompt=st.lists(st.integers(3, 50), min_size=1, max_size=30),
    answers=st.lists(st.lists(st.integers(3, 50), max_size=30), min_size=2, max_size=2),
    max_length=st.integers(1, 40),
    max_prompt_length=st.integers(1, 40),
    mode=st.sampled_from(["keep_end", "keep_start", "drop"]),
)
def test_no_sequence_exceeds_max_length_and_no_completion_is_empty(
    prompt: list[int], answers: list[list[int]], max_length: int, max_prompt_length: int, mode: str
) -> None:
    tokens = PairTokens(prompt, [*answers[0], 2], [*answers[1], 2])
    limits: dict[str, Any] = {"max_length": max_length, "max_prompt_length": max_prompt_length, "truncation_mode": mode}
    too_long = len(prompt) + max(len(tokens.chosen), len(tokens.rejected)) > max_length
    cuts_prompt = too_long and len(prompt) > max_prompt_length
    completion_space = max(0, max_length - (max_prompt_length if cuts_prompt else len(prompt)))
    expected_reason = (
        "prompt_too_long" if mode == "drop" and cuts_prompt else "identical_when_cut" if completion_space else "no_room"
    )
    if (
        expected_reason != "identical_when_cut"
        or tokens.chosen[:completion_space] == tokens.rejected[:completion_space]
    ):
        with pytest.raises(RowRejected) as caught:
            truncate(tokens, **limits, bos_id=3)
        assert caught.value.reason == expected_reason
        return
    truncated = truncate(tokens, **limits, bos_id=3)
    assert len(truncated.prompt) == (max_prompt_length if cuts_prompt else len(prompt))
    for answer, full in ((truncated.chosen, tokens.chosen), (truncated.rejected, tokens.rejected)):
        assert len(answer) >= 1
        assert len(truncated.prompt) + len(answer) <= max_length
        assert answer == full[: len(answer)]
    cut = sum(answer[-1] != 2 for answer in (truncated.chosen, truncated.rejected))
    assert truncated.completions_truncated == cut
    assert truncated.prompt_truncated == cuts_prompt
    assert too_long or truncated[:3] == tokens
    assert truncated.chosen != truncated.rejected
