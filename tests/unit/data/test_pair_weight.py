"""Weights of pairs: from a column, from a score margin, counted where they cannot be used, and in the fingerprints."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.data_tokenizers import tokenizer_of
from support.json_lines import write_json_lines
from support.prepared_rows import prepare_rows

from orpo_cli.data.prepare import PreparedData, prepare
from orpo_cli.errors import DataError
from orpo_cli.recipe.schema import DatasetSection


def run(folder: Path, rows: list[Any], dataset: dict[str, Any] | None = None, **source: Any) -> PreparedData:
    return prepare_rows(folder / "x.jsonl", rows, source, **(dataset or {}))


def rows(*weights: Any, **others: Any) -> list[dict[str, Any]]:
    return [
        {"prompt": f"What is {at}?", "chosen": f"It is {at}.", "rejected": f"No, {at}.", "confidence": weight, **others}
        for at, weight in enumerate(weights)
    ]


def test_a_mapped_column_weights_the_pairs(tmp_path: Path) -> None:
    found = run(tmp_path, rows(0.5, 2, "3.5", 1), columns={"weight": "confidence"})
    assert found.train["weight"][:] == [0.5, 2.0, 3.5, 1.0]
    assert found.report.weights == {"train": {"min": 0.5, "mean": 1.75, "max": 3.5, "effective_pairs": 2.8}}
    assert found.report.sources[0].unused_columns == []
    (line,) = [line for line in found.report.lines() if "weighted" in line]
    assert line == (
        "train pairs are weighted in the loss: 0.5 min, 1.75 mean, 3.5 max; as informative as 3 pairs of equal weight"
    )


def test_a_column_that_is_only_named_weight_is_unused(tmp_path: Path) -> None:
    data = [{**row, "weight": 7.0} for row in rows(0.5, 2)]
    found = run(tmp_path, data)
    assert "weight" not in found.train.column_names
    assert found.report.weights == {}
    assert found.report.sources[0].unused_columns == ["confidence", "weight"]
    assert run(tmp_path, data, columns={"weight": "weight"}).train["weight"][:] == [7.0, 7.0]
    assert run(tmp_path, data, columns={"weight": "confidence"}).train["weight"][:] == [0.5, 2.0]


def test_a_weight_may_be_within_a_column(tmp_path: Path) -> None:
    data = [{**row, "meta": {"weights": [1, at + 2]}} for at, row in enumerate(rows(0, 0))]
    found = run(tmp_path, data, columns={"weight": "meta.weights.1"})
    assert found.train["weight"][:] == [2.0, 3.0]
    assert found.report.sources[0].unused_columns == ["confidence"]


def test_rows_without_a_usable_weight_are_dropped_and_counted(tmp_path: Path) -> None:
    unusable = [None, "high", -1, 0, float("inf"), True, [1], 1e-7, 1e7, "nan"]
    data = rows(2.0, *unusable)
    del data[1]["confidence"]  # a row without the column
    found = run(tmp_path, data, columns={"weight": "confidence"})
    report = found.report.sources[0]
    assert found.train["weight"][:] == [2.0]
    assert report.dropped == {"no_weight": len(unusable)}
    assert report.examples["no_weight"][1:] == ["x.jsonl:3 (confidence is 'high')", "x.jsonl:4 (confidence is -1)"]


def test_the_score_margin_is_a_weight(tmp_path: Path) -> None:
    data = [
        {**row, "score_chosen": chosen, "score_rejected": rejected}
        for row, (chosen, rejected) in zip(rows(*[0] * 5), [(5, 1), (3, 2.5), (2, 2), (1, 4), (None, 3)], strict=True)
    ]
    found = run(tmp_path, data, weight_by="score_margin")
    assert found.train["weight"][:] == [4.0, 0.5]
    assert found.report.sources[0].dropped == {"no_weight": 2, "no_score": 1}
    assert found.report.sources[0].unused_columns == ["confidence"]
    assert "the scores are 2 and 2" in found.report.sources[0].examples["no_weight"][0]
    limited = run(tmp_path, data, weight_by="score_margin", min_score_margin=1.0)
    assert limited.train["weight"][:] == [4.0]


def test_scores_of_several_answers_weight_each_pair(tmp_path: Path) -> None:
    completions = [{"response": text, "overall_score": score} for text, score in (("a", 9), ("b", 5), ("c", 2))]
    data = [{"instruction": "Which letter?", "completions": completions}]
    found = run(tmp_path, data, {"rejected": "all"}, weight_by="score_margin")
    assert sorted(found.train["weight"][:]) == [4.0, 7.0]


def test_the_weight_of_a_row_is_that_of_all_its_pairs(tmp_path: Path) -> None:
    data = rows(3.0, 0.5)
    data[0]["rejected"] = ["No.", "Never."]
    found = run(tmp_path, data, {"rejected": "all"}, columns={"weight": "confidence"})
    assert dict(zip(found.train["row"][:], found.train["weight"][:], strict=True)) == {
        "x.jsonl:1#1": 3.0, "x.jsonl:1#2": 3.0, "x.jsonl:2": 0.5,
    }  # fmt: skip


def test_pairs_of_several_rows_have_no_column_of_weights(tmp_path: Path) -> None:
    data = [{"prompt": "Why?", "completion": text, "label": text == "So.", "w": 2.0} for text in ("So.", "No.")]
    with pytest.raises(DataError, match="format kto, whose pairs are made of several rows"):
        run(tmp_path, data, columns={"weight": "w"})


def test_weights_survive_filters_splits_and_source_weights(tmp_path: Path) -> None:
    weights = [0.5 + at for at in range(20)]
    data = [*rows(*weights), rows(99.0)[0]]  # the last is a duplicate of the first, whose weight stays
    options = {"eval": {"test_size": 4}}
    found = run(tmp_path, data, options, columns={"weight": "confidence"}, weight=2)
    assert found.eval is not None
    by_row = {f"x.jsonl:{at + 1}": weight for at, weight in enumerate(weights)}
    for part, count in ((found.train, 32), (found.eval, 4)):
        assert [by_row[row] for row in part["row"][:]] == part["weight"][:]
        assert len(part) == count
    assert set(found.report.weights) == {"train", "eval"}


def test_sources_with_and_without_weights_are_mixed(tmp_path: Path) -> None:
    one, two = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write_json_lines(one, rows(4.0, 5.0))
    two.write_text("".join(json.dumps({**row, "prompt": "Other?"}) + "\n" for row in rows(9.0, 9.0)))
    dataset = {"train": [{"path": str(one), "columns": {"weight": "confidence"}}, {"path": str(two)}]}
    section = DatasetSection.model_validate(dataset)
    found = prepare(section, tokenizer_of("chatml"), max_length=192, max_prompt_length=96, note=lambda _: None)
    assert found.train["weight"][:] == [4.0, 5.0, 1.0, 1.0]


def test_fingerprints_change_with_a_weight_and_not_with_weights_of_one(tmp_path: Path) -> None:
    columns = {"weight": "confidence"}
    without = run(tmp_path, rows(1, 1, 1))
    ones, weighted, other = (run(tmp_path, rows(*each), columns=columns) for each in ([1, 1, 1], [1, 2, 1], [1, 3, 1]))
    prints = [found.report.fingerprints["train"] for found in (without, ones, weighted, other)]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
    assert (weighted.digests("train") == without.digests("train")).tolist() == [True, False, True]


def test_decimal_columns_of_parquet_are_numbers(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: [row[name] for row in rows(0, 0)] for name in ("prompt", "chosen", "rejected")}
    weights = pa.array([Decimal("0.25"), Decimal("1.50")], pa.decimal128(6, 2))
    pq.write_table(pa.table({**columns, "w": weights}), tmp_path / "x.parquet")
    section = DatasetSection.model_validate(
        {"train": {"path": str(tmp_path / "x.parquet"), "columns": {"weight": "w"}}}
    )
    found = prepare(section, tokenizer_of("chatml"), max_length=192, max_prompt_length=96, note=lambda _: None)
    assert found.train["weight"][:] == [0.25, 1.5]
