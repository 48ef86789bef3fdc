"""Rows that are dropped or truncated, each counted under its reason, and data of which nothing is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.data_tokenizers import byte_level, tokenizer_of
from support.prepared_rows import preparation_error, prepare_dataset, text_pair, write_source
from support.tiny import pairs, tiny_tokenizer

from orpo_cli.data.filters import REASONS
from orpo_cli.data.table import expand_pair
from orpo_cli.errors import DataError


def test_every_drop_is_counted_under_its_reason_with_its_row(tmp_path: Path) -> None:
    conversation = pairs(1)[0]
    other = [{"role": "user", "content": "Other?"}]
    cases: list[tuple[str, Any]] = [
        ("malformed", ["not", "a", "row"]),
        ("malformed", text_pair(chosen=3)),
        ("empty_prompt", text_pair(prompt="")),
        ("empty_chosen", text_pair(chosen=" \n")),
        ("empty_rejected", text_pair(rejected="")),
        ("identical", text_pair(rejected=" Wet. ")),
        (
            "histories_differ",
            {"chosen": other + conversation["chosen"], "rejected": pairs(2)[1]["prompt"] + conversation["rejected"]},
        ),  # type: ignore[operator]
        ("goes_on_after_end", text_pair(chosen=" Wet.<|im_end|> And cold.")),
        ("prompt_too_long", text_pair(prompt="word " * 100)),
        ("identical_when_cut", text_pair(chosen=" x" * 300 + "a", rejected=" x" * 300 + "b")),
    ]
    rows = [row for _, row in cases] + [text_pair()]
    report = prepare_dataset(
        {"train": write_source(tmp_path / "x.jsonl", rows), "truncation_mode": "drop"}
    ).report.as_dict()
    source = report["sources"][0]
    assert report["kept"] == source["kept"] == 1
    assert report["rows_read"] == len(rows)
    assert report["dropped"] == {**dict.fromkeys((reason for reason, _ in cases), 1), "malformed": 2}
    for number, (reason, _) in enumerate(cases, 1):
        assert any(example.startswith(f"x.jsonl:{number}") for example in source["examples"][reason])
    assert report["reasons"] == {reason: REASONS[reason] for reason in report["dropped"]}
    assert json.loads(json.dumps(report)) == report


def test_a_prompt_that_fills_max_length_is_dropped(tmp_path: Path) -> None:
    train = write_source(tmp_path / "x.jsonl", [text_pair(prompt="word " * 200), text_pair()])
    report = prepare_dataset({"train": train}, max_length=64, max_prompt_length=64).report
    assert report.dropped == {"no_room": 1}


def test_a_template_that_refuses_a_conversation_drops_it(tmp_path: Path) -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + (
        tiny_tokenizer().chat_template or ""
    )
    tokenizer = byte_level(["<s>", "</s>", "<|im_start|>", "<|im_end|>"], template)
    refused = {**pairs(1)[0], "prompt": [{"role": "system", "content": "x"}, *pairs(1)[0]["prompt"]]}  # type: ignore[misc]
    report = prepare_dataset(
        {"train": write_source(tmp_path / "x.jsonl", [refused, *pairs(3)])}, tokenizer=tokenizer
    ).report
    assert report.dropped == {"template_error": 1}
    assert report.sources[0].examples == {"template_error": ["x.jsonl:1 (line 1: no system)"]}


def test_no_more_than_three_examples_of_a_reason_are_named(tmp_path: Path) -> None:
    rows = [text_pair(chosen="") for _ in range(9)] + [text_pair()]
    report = prepare_dataset({"train": write_source(tmp_path / "x.jsonl", rows)}).report
    assert report.sources[0].examples["empty_chosen"] == ["x.jsonl:1", "x.jsonl:2", "x.jsonl:3"]
    assert any("9 empty_chosen" in line and "x.jsonl:2" in line for line in report.lines())


def test_long_prompts_and_answers_are_cut_and_counted(tmp_path: Path) -> None:
    cut = [text_pair(prompt="start " + "word " * 200 + "end"), text_pair(chosen=" so" * 300)]
    rows = [*cut, text_pair(), cut[0]]
    train = {**write_source(tmp_path / "x.jsonl", rows), "format": "text"}
    tokenizer = tokenizer_of("chatml")
    prepared = prepare_dataset({"train": train}, max_length=80, max_prompt_length=40)
    assert prepared.report.sources[0].truncated_prompts == 1
    assert prepared.report.sources[0].truncated_completions == 1
    assert prepared.report.sources[0].truncated_rows == ["x.jsonl:1", "x.jsonl:2"]  # not the duplicate
    assert any(
        line.endswith("1 prompts and 1 completions (a pair may have several), for example of x.jsonl:1, x.jsonl:2")
        for line in prepared.report.lines()
    )
    assert len(prepared.train[0]["prompt_input_ids"]) == 40
    assert tokenizer.decode(prepared.train[0]["prompt_input_ids"]).endswith("word end")
    assert len(expand_pair(prepared.train[1])["chosen_input_ids"]) == 80
    assert prepared.train[1]["chosen_answer_ids"][-1] != tokenizer.eos_token_id
    assert prepared.train[1]["rejected_answer_ids"][-1] == tokenizer.eos_token_id
    start = prepare_dataset(
        {"train": train, "truncation_mode": "keep_start"}, max_length=80, max_prompt_length=40
    ).train[0]
    assert tokenizer.decode(start["prompt_input_ids"]).startswith("start word")


def test_pairs_with_a_cut_answer_can_be_left_out(tmp_path: Path) -> None:
    train = write_source(tmp_path / "x.jsonl", [text_pair(chosen=" so" * 300), text_pair()])
    report = prepare_dataset({"train": train, "drop_truncated": True}, max_length=80, max_prompt_length=40).report
    assert report.dropped == {"answer_too_long": 1}
    assert report.sources[0].truncated_completions == 0
    assert prepare_dataset({"train": train}, max_length=80, max_prompt_length=40).report.kept == 2


def test_nothing_left_lists_the_drops_and_what_to_do(tmp_path: Path) -> None:
    rows = [text_pair(prompt="word " * 200), text_pair(chosen="")]
    error = preparation_error({"train": write_source(tmp_path / "x.jsonl", rows), "truncation_mode": "drop"})
    assert error.exit_code == 4
    assert "no usable train pair is left of 2 rows" in error.message
    assert "1 empty_chosen" in error.message
    assert "x.jsonl:2" in error.message
    assert "Raise training.max_length" in str(error.remedy)
    good = write_source(tmp_path / "good.jsonl", pairs(3))
    error = preparation_error({"train": good, "eval": write_source(tmp_path / "bad.jsonl", [text_pair(chosen="")])})
    assert "no usable eval pair" in error.message


def test_a_source_without_a_valid_row_is_an_error_even_with_another_valid_source(tmp_path: Path) -> None:
    good = write_source(tmp_path / "good.jsonl", pairs(3))
    bad = write_source(tmp_path / "bad.jsonl", [{"chosen": [{"role": "wizard", "content": "a"}], "rejected": "b"}])
    error = preparation_error({"train": [good, bad]})
    assert isinstance(error, DataError)
    assert "bad.jsonl: no row fits the format preference" in error.message
    assert "wizard" in error.message


def test_columns_of_the_wrong_type_name_the_file_the_row_and_the_types(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(
        pa.table({"prompt": ["a", "b"], "chosen": [1, 2], "rejected": ["c", "d"]}), tmp_path / "x.parquet"
    )
    error = preparation_error({"train": {"path": str(tmp_path / "x.parquet")}})
    assert error.exit_code == 4
    assert f"{tmp_path / 'x.parquet'} (rows from x.parquet:1)" in error.message
    assert "chosen (a number)" in error.message


@pytest.mark.parametrize("text", ["", "\n\n", "[]"])
def test_an_empty_file_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    assert "no rows in split train" in preparation_error({"train": {"path": str(tmp_path / "x.json")}}).message


def test_mismatched_and_empty_rows_of_real_transcripts_are_found(real_data: Path) -> None:
    source = {"path": str(real_data / "hh_harmless_base_test.jsonl.gz")}
    prepared = prepare_dataset({"train": source}, tokenizer=tiny_tokenizer(), max_length=2048, max_prompt_length=2000)
    assert prepared.report.sources[0].format == "hh"
    assert prepared.report.rows_read == 2312
    assert prepared.report.dropped["histories_differ"] == 5
    assert prepared.report.dropped["empty_chosen"] == 4
    for row in map(expand_pair, prepared.train):
        prompt = len(row["prompt_input_ids"])
        assert prompt < len(row["chosen_input_ids"]) <= 2048
        assert row["chosen_input_ids"][:prompt] == row["rejected_input_ids"][:prompt] == row["prompt_input_ids"]
