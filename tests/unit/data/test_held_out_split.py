"""Held-out pairs: split off the training data by `test_size`, or read from a source of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.prepared_rows import preparation_error, prepare_dataset, write_source
from support.tiny import pairs

from orpo_cli.data.prepare import PreparedData, PreparedEval, prepare_eval
from orpo_cli.errors import UsageError


def test_prepare_eval_gives_the_pairs_that_prepare_holds_out(tmp_path: Path) -> None:
    dataset = {"train": write_source(tmp_path / "x.jsonl", pairs(100)), "eval": {"test_size": 0.1}}
    prepared: PreparedData = prepare_dataset(dataset)
    held: PreparedEval = prepare_dataset(dataset, prepare_eval)
    assert prepared.eval is not None
    assert prepared.eval.num_rows == 10
    assert list(held.eval) == list(prepared.eval)
    assert held.report.fingerprints["eval"] == prepared.report.fingerprints["eval"]
    assert sorted(prepared.train["pair"][:] + prepared.eval["pair"][:]) == list(range(100))
    assert prepared.train["pair"][:] == sorted(prepared.train["pair"][:])
    assert prepared.report.as_dict()["eval_pairs"] == 10
    assert prepare_dataset({**dataset, "shuffle_seed": 7}).eval["row"][:] != prepared.eval["row"][:]
    assert prepare_dataset({**dataset, "eval": {"test_size": 17}}).eval.num_rows == 17
    assert prepare_dataset({**dataset, "eval": {"test_size": 0.001}}).eval.num_rows == 1


def test_a_dropped_pair_moves_at_most_one_other_between_train_and_eval(tmp_path: Path) -> None:
    rows = pairs(100)
    before = set(
        prepare_dataset({"train": write_source(tmp_path / "x.jsonl", rows), "eval": {"test_size": 20}}).eval["row"][:]
    )
    rows[3] = {**rows[3], "chosen": []}
    after = set(
        prepare_dataset({"train": write_source(tmp_path / "x.jsonl", rows), "eval": {"test_size": 20}}).eval["row"][:]
    )
    assert len(before - after) <= 1


def test_a_test_size_that_leaves_no_train_pair_is_an_error(tmp_path: Path) -> None:
    error = preparation_error({"train": write_source(tmp_path / "x.jsonl", pairs(5)), "eval": {"test_size": 5}})
    assert error.exit_code == 4
    assert "leaves none to train on" in error.message


def test_prepare_eval_of_a_separate_source_reads_no_train_data(tmp_path: Path) -> None:
    held = write_source(tmp_path / "held.jsonl", pairs(4))
    result: PreparedEval = prepare_dataset(
        {"train": {"path": str(tmp_path / "gone.jsonl")}, "eval": held}, prepare_eval
    )
    assert result.eval["row"][:] == [f"held.jsonl:{number}" for number in (1, 2, 3, 4)]
    assert result.report.train_pairs == 0
    with pytest.raises(UsageError, match="holds no pairs out"):
        prepare_dataset({"train": held}, prepare_eval)
