"""Rows with several rejected answers: which of them become pairs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.pair_rows import SEVERAL_REJECTED, assistant, dataset_section, read_row_pairs, texts_of, user
from support.prepared_rows import prepare_rows

from orpo_cli.data.formats.detect import detect_format
from orpo_cli.data.pair import Pair, RowRejected
from orpo_cli.data.turns import read_pairs

SCORED = ("UltraFeedback raw", "Nectar", "lists of responses and scores", "distilabel")


def rejected_texts(row: dict[str, Any], **settings: Any) -> list[str]:
    found, _ = read_row_pairs(row, **settings)
    prompts = {prompt for prompt, *_ in texts_of(found)}
    assert prompts <= {"one", "user:one"}
    assert {chosen for _, chosen, _ in texts_of(found)} == {"good"}
    return [rejected for *_, rejected in texts_of(found)]


@pytest.mark.parametrize("shape", SEVERAL_REJECTED)
def test_rejected_answers_are_chosen_by_the_setting(shape: str) -> None:
    row, every = SEVERAL_REJECTED[shape], ["bad 1", "bad 2", "bad 3"]
    assert rejected_texts(row, rejected="all") == every
    assert rejected_texts(row, rejected="worst") == ["bad 2"]
    drawn = [rejected_texts(row, rejected="random", shuffle_seed=seed)[0] for seed in range(20)]
    assert set(drawn) == set(every)
    assert drawn == [rejected_texts(row, rejected="random", shuffle_seed=seed)[0] for seed in range(20)]
    if shape in SCORED:
        assert [rejected_texts(row, shuffle_seed=seed)[0] for seed in range(20)] == drawn
    else:
        assert rejected_texts(row) == rejected_texts(row, rejected="first") == every[:1]
    assert read_row_pairs(row, rejected="all")[1]["pairs_of_rejected"] == 2
    assert read_row_pairs(row, rejected="random")[1] == {"rejected_unused": 2}


def test_an_answer_is_drawn_beside_a_column_with_half_of_a_character() -> None:
    row = {"prompt": "one", "chosen": "good", "rejected": ["bad 1", "bad 2"], "id": "\ud83d"}
    assert {rejected_texts(row, rejected="random", shuffle_seed=seed)[0] for seed in range(20)} == {"bad 1", "bad 2"}


@pytest.mark.parametrize("shape", ["UltraFeedback raw", "Nectar"])
def test_a_drawn_completion_is_the_one_that_the_reader_draws(shape: str) -> None:
    for seed in range(20):
        drawn = detect_format([SEVERAL_REJECTED[shape]], seed=seed).read(SEVERAL_REJECTED[shape], Counter())
        assert read_row_pairs(SEVERAL_REJECTED[shape], shuffle_seed=seed)[0] == [drawn]


def test_an_answer_may_be_an_object_with_a_text_and_a_score() -> None:
    row = {"prompt": "one", "chosen": {"text": "good", "score": 5}, "rejected": {"response": "bad", "rating": 2}}
    assert read_row_pairs(row) == ([Pair("one", "good", "bad", (5.0, 2.0))], {})
    row = {"prompt": "one", "chosen": ["good"], "rejected": ["bad"]}
    assert read_row_pairs(row) == ([Pair("one", "good", "bad")], {})


def test_numbered_columns_are_rejected_answers() -> None:
    row = {"prompt": "one", "chosen": "good", "rejected_2": "bad 2", "rejected_1": "bad 1", "rejected_10": "bad 3"}
    assert rejected_texts(row, rejected="all") == ["bad 1", "bad 2", "bad 3"]
    row = {
        "prompt": "one",
        "chosen": "good",
        "rejected": "bad 1",
        "rejected2": "bad 2",
        "rejected3": None,
        "rejected4": "",
    }
    assert rejected_texts(row, rejected="all") == ["bad 1", "bad 2"]
    assert rejected_texts(row) == ["bad 1"]


def test_lists_of_rejected_answers_as_text_are_read(tmp_path: Path) -> None:
    rows = [
        {"prompt": [user("one")], "chosen": "good", "rejected": '["bad 1", "bad 2"]', "rejected_scores": "[3, 1]"},
        {"prompt": [user("two")], "chosen": "good", "rejected": "['bad 3']"},
    ]
    numpy = {"prompt": [user("three")], "chosen": "good", "rejected": "['bad 4'\n 'bad 5']"}
    every = prepare_rows(tmp_path / "x.jsonl", [*rows, numpy], rejected="all").train
    assert every["rejected_text"][:] == ["bad 1", "bad 2", "bad 3", "bad 4", "bad 5"]
    assert prepare_rows(tmp_path / "x.jsonl", rows, rejected="worst").train["rejected_text"][:] == ["bad 2", "bad 3"]
    for answer in ({"chosen": '["a", "b"]'}, {"rejected": "[brackets"}):  # answers that are lists, not lists of answers
        kept = prepare_rows(tmp_path / "x.jsonl", [rows[0], {**rows[1], **answer}], rejected="all").train
        assert kept["rejected_text"][0] == rows[0]["rejected"]


def test_the_worst_answer_needs_a_score_for_each() -> None:
    for scores in ({}, {"score_rejected": [3, None]}):
        (found,), _ = read_row_pairs(
            {"prompt": "one", "chosen": "good", "rejected": ["a", "b"], **scores}, rejected="worst"
        )
        assert isinstance(found, RowRejected)
        assert found.reason == "no_score"
    (found,), _ = read_row_pairs({"prompt": "one", "chosen": "good", "rejected": ["a"]}, rejected="worst")
    assert isinstance(found, Pair)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chosen": ["a", "b"], "rejected": ["c", "d"]}, "malformed"),
        ({"score_rejected": [1]}, "malformed"),
        ({"rejected": [None]}, "empty_rejected"),
    ],
)
def test_a_list_that_cannot_be_split_is_rejected(changes: dict[str, Any], reason: str) -> None:
    row = {"prompt": "one", "chosen": "good", "rejected": ["a", "b"]}
    notes: Counter[str] = Counter()
    (found,) = read_pairs({**row, **changes}, detect_format([row]), dataset_section(), notes)
    assert isinstance(found, RowRejected)
    assert found.reason == reason


def test_tool_calls_in_sequence_are_one_answer() -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    steps = [assistant("", tool_calls=[call]), {"role": "tool", "content": "x"}, assistant("done")]
    row = {"prompt": [user("one")], "chosen": steps, "rejected": [*steps[:2], assistant("bad")]}
    assert len(read_row_pairs(row, rejected="all")[0]) == 1


def test_margins_and_mapped_columns_apply_to_each_rejected_answer(tmp_path: Path) -> None:
    row = {"q": "one", "best": "good", "worse": ["bad 1", "bad 2"], "score_chosen": 5, "score_rejected": [4.5, 1]}
    source = {"columns": {"prompt": "q", "chosen": "best", "rejected": "worse"}, "min_score_margin": 1}
    prepared = prepare_rows(tmp_path / "x.jsonl", [row], source, rejected="all")
    assert prepared.train["rejected_text"][:] == ["bad 2"]
    assert prepared.report.dropped == {"score_margin": 1}
    assert prepared.report.sources[0].unused_columns == []
