"""Trained totals of a checkpoint, also of one that has none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orpo_cli.training.trained_totals import TOTALS_FILE, TrainedTotals

TOTALS = TrainedTotals(pairs=24, tokens=2400, seconds=6.5, step_seconds=4.0)


def test_a_checkpoint_gives_its_totals_back(tmp_path: Path) -> None:
    (tmp_path / TOTALS_FILE).write_text(json.dumps(TOTALS.to_document()))
    assert TrainedTotals.of_checkpoint(tmp_path, 4) == TOTALS
    assert TrainedTotals.of_checkpoint(None, 4) == TrainedTotals()
    assert TOTALS.rates() == {"pairs_per_second": 6.0, "tokens_per_second": 600.0}
    assert TOTALS.at_least(7.0).seconds == 7.0


@pytest.mark.parametrize("content", [None, "", "[]", '{"pairs": "many"}'])
def test_without_totals_pairs_follow_from_the_steps(tmp_path: Path, content: str | None) -> None:
    checkpoint = tmp_path / "checkpoint-6"
    checkpoint.mkdir()
    if content is not None:
        (checkpoint / TOTALS_FILE).write_text(content)
    totals = TrainedTotals.of_checkpoint(checkpoint, 4)
    assert (totals.pairs, totals.complete, totals.rates()) == (24, False, {})
    (checkpoint / TOTALS_FILE).write_text(json.dumps(totals.to_document()))
    assert TrainedTotals.of_checkpoint(checkpoint, 4) == totals
