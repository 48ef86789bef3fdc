"""Pairs formed of scored, judged and labelled answers: which is chosen, and ties."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.file_size_limit import file_size_limit
from support.message_rows import ASK, BAD, GOOD, SYSTEM_ROWS, prepared, prepared_texts
from support.pair_rows import assistant, user

from orpo_cli.data.formats.column_proposals import propose_columns
from orpo_cli.data.formats.detect import detect_format
from orpo_cli.data.formats.row_groups import all_rows
from orpo_cli.data.sources.opened import Row as NamedRow
from orpo_cli.errors import DataError, MachineError


def completions(*scores: Any) -> dict[str, Any]:
    return {
        "instruction": ASK,
        "completions": [{"response": f"a{n}", "overall_score": score} for n, score in enumerate(scores)],
    }


def test_the_best_completion_is_paired_with_a_seeded_choice_of_worse_ones() -> None:
    row = completions(3, 9, 9, 1, 5)
    drawn = {detect_format([row], seed=seed).read(row, Counter()).rejected_text for seed in range(40)}
    assert drawn == {"a0", "a3", "a4"}
    again = {detect_format([row], seed=7).read(row, Counter()).rejected_text for _ in range(5)}
    assert len(again) == 1
    assert detect_format([row]).read(row, Counter()).chosen_text == "a1"


def test_completions_with_equal_scores_are_a_tie(tmp_path: Path) -> None:
    data = prepared(tmp_path, [completions(4, 4), completions(4, "N/A"), completions(1, 2)])
    assert data.report.dropped == {"tie": 1, "malformed": 1}
    assert prepared_texts(data) == [(ASK, "a1", "a0")]


def test_lists_of_objects_with_text_and_score_are_read(tmp_path: Path) -> None:
    rows = [
        {
            "query": f"Why {n}?",
            name: [{key: "Good.", score: 9}, None, {key: "Bad.", score: "2.5"}, {key: "Odd.", score: None}],
        }
        for n, (name, key, score) in enumerate(
            [("responses", "text", "score"), ("answers", "content", "rating"), ("candidates", "response", "user_votes")]
        )
    ]
    data = prepared(
        tmp_path, [*rows, {"query": "Tie?", "responses": [{"text": "A", "score": 1}, {"text": "B", "score": 1}]}]
    )
    assert data.report.sources[0].format == "responses"
    assert set(zip(data.train["chosen_text"], data.train["rejected_text"], strict=True)) == {("Good.", "Bad.")}
    assert (len(data.train), data.report.dropped) == (3, {"tie": 1})


CONVERSATION = [user("Hi"), assistant("Hello"), user(ASK)]


@pytest.mark.parametrize("prompt", [ASK, CONVERSATION])
@pytest.mark.parametrize(
    ("columns", "answers"),
    [
        ({}, {"responses": ["Bad.", "Good.", "Odd."], "ranks": [2, 1, None]}),
        ({"ranks": "排名"}, {"responses": ["Bad.", "Good."], "排名": [3, 2]}),
        ({}, {"answers": [{"text": "Good.", "rank": 1}, {"text": "Bad.", "rank": 4}]}),
    ],
)
def test_of_ranks_the_lowest_is_the_best(
    prompt: Any, columns: dict[str, str], answers: dict[str, Any], tmp_path: Path
) -> None:
    data = prepared(tmp_path, [{"prompt": prompt, **answers}], columns=columns)
    assert data.report.sources[0].format == "responses"
    assert list(zip(data.train["chosen_text"], data.train["rejected_text"], strict=True)) == [("Good.", "Bad.")]
    assert ("Hello" in data.train["prompt_json"][0]) == (prompt is CONVERSATION)


def test_ranks_are_not_taken_as_scores(tmp_path: Path) -> None:
    """The best answer would be the rejected one."""
    rows = [{"ask": f"What is {n}?", "texts": ["Good.", "Bad."], "their_ranks": [1, 2]} for n in range(4)]
    assert propose_columns(rows) == {"prompt": "ask", "responses": "texts", "ranks": "their_ranks"}
    with pytest.raises(DataError, match="their_ranks has ranks by its name") as caught:
        prepared(tmp_path, rows, columns={"prompt": "ask", "responses": "texts", "scores": "their_ranks"})
    assert caught.value.remedy is not None
    assert "`columns: {prompt: ask, responses: texts, ranks: their_ranks}`" in caught.value.remedy


def test_renamed_columns_have_their_own_names_in_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the columns are note \(text\), said as prompt \(text\)"):
        prepared(tmp_path, [{"said": "Why is it so?", "note": "x"}], columns={"prompt": "said"})


def test_helpsteer_rows_with_the_same_prompt_form_a_pair(tmp_path: Path) -> None:
    def row(prompt: str, response: str, helpfulness: int, correctness: int) -> dict[str, Any]:
        return {"prompt": prompt, "response": response, "helpfulness": helpfulness, "correctness": correctness,
                "coherence": 4, "complexity": 1, "verbosity": 2}  # fmt: skip

    rows = [row("q1", "worse", 2, 4), row("q1", "better", 4, 1), row("q2", "same", 3, 3), row("q2", "again", 3, 3),
            row("q3", "alone", 1, 1), row("q4", "right", 3, 4), row("q4", "wrong", 3, 2)]  # fmt: skip
    data = prepared(tmp_path, rows)
    assert prepared_texts(data) == [("q1", "better", "worse"), ("q4", "right", "wrong")]
    assert data.report.dropped == {"tie": 2, "unpaired": 1}
    assert data.report.rows_read == 7
    assert data.report.sources[0].notes["rows_gathered"] == 4


def test_helpsteer_rows_of_a_prompt_may_be_anywhere_in_a_source_but_follow_each_other_in_a_stream(
    tmp_path: Path,
) -> None:
    rows = [
        {"prompt": f"q{n}", "response": f"{kind} {n}", "helpfulness": score}
        for kind, score in (("fair", 2), ("good", 4), ("bad", 1))
        for n in (2, 0, 1)
    ]
    data = prepared(tmp_path, rows)
    assert [(prompt, chosen) for prompt, chosen, _ in prepared_texts(data)] == [
        ("q2", "good 2"), ("q0", "good 0"), ("q1", "good 1")
    ]  # fmt: skip
    assert not data.report.dropped
    assert data.train["row"][:] == ["x.jsonl:1+4+7", "x.jsonl:2+5+8", "x.jsonl:3+6+9"]
    in_order = sorted(rows, key=lambda row: str(row["prompt"]))
    assert prepared_texts(prepared(tmp_path, in_order, streaming=True)) == prepared_texts(prepared(tmp_path, in_order))
    with pytest.raises(DataError, match="the row before it and the row after it have other prompts") as caught:
        prepared(tmp_path, rows, streaming=True)
    assert "sort the rows by their prompt" in str(caught.value.remedy)


def test_max_samples_keeps_the_rows_of_a_prompt_together(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"q{n // 2}", "response": f"{'good' if n % 2 else 'bad'} {n}", "helpfulness": n % 2}
        for n in range(400)
    ]
    data = prepared(tmp_path, rows, max_samples=50)
    assert len(data.train) >= 24
    assert sum(data.report.dropped.values()) <= 2  # a torn pair at each end
    (line,) = (each for each in data.report.lines() if "rows read" in each)
    assert "50 of 400 rows read (consecutive ones from a random place" in line
    assert "  chosen: the answer with the highest score of its prompt" in data.report.lines()


def test_a_full_temporary_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = [NamedRow(f"x:{n}", {"prompt": f"Why {n % 9}?", "response": "Because. " * 99}) for n in range(99)]
    with file_size_limit(10_000), pytest.raises(MachineError) as caught:
        list(all_rows(iter(rows), lambda row: row.value["prompt"]))
    assert f"a temporary file in {tmp_path}" in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_good_and_a_bad_completion_of_one_prompt_form_a_pair_at_any_distance(tmp_path: Path) -> None:
    def row(prompt: Any, completion: str, label: Any) -> dict[str, Any]:
        return {"prompt": prompt, "completion": completion, "label": label}

    rows = [row("q1", "good", True), row("q2", "bad", False), row("q3", "alone", True), row("q1", "bad", False),
            row([user("q2")], "fine", True), row("q2", "fine", 1), row("q1", "other", "maybe"), row("q1", "new", None)]  # fmt: skip
    data = prepared(tmp_path, rows)
    assert data.report.sources[0].format == "kto"
    assert prepared_texts(data) == [("q1", "good", "bad"), ("q2", "fine", "bad")]
    assert data.report.dropped == {"unpaired": 2, "malformed": 1, "no_label": 1}
    assert data.train["row"][:] == ["x.jsonl:1+4", "x.jsonl:2+6"]


def test_a_tie_is_counted_and_an_ambiguous_label_is_an_error(tmp_path: Path) -> None:
    def row(label: Any) -> dict[str, Any]:
        return {"prompt": ASK, "response_1": GOOD, "response_2": BAD, "label": label}

    data = prepared(tmp_path, [row(1), row("tie"), row(2)])
    assert prepared_texts(data) == [(ASK, GOOD, BAD), (ASK, BAD, GOOD)]
    assert data.report.dropped == {"tie": 1}
    with pytest.raises(DataError, match="label is 0") as caught:
        prepared(tmp_path, [row(0), row(1)])
    assert "first, second or tie" in str(caught.value.remedy)
    mapped = prepared(tmp_path, [row(0), row(1)], labels={"0": "first", "1": "second"})
    assert prepared_texts(mapped) == [(ASK, GOOD, BAD), (ASK, BAD, GOOD)]
    openai = SYSTEM_ROWS["OpenAI"]
    with pytest.raises(DataError, match="labels would do nothing"):
        prepared(tmp_path, [openai], labels={"0": "first"})


@pytest.mark.parametrize("missing", [None, "", float("nan")])
def test_a_row_without_a_label_is_counted_as_one(tmp_path: Path, missing: Any) -> None:
    rows = [{"prompt": f"{ASK} {at}", "answer_1": GOOD, "answer_2": BAD, "winner": "left"} for at in range(2)]
    rows += [{**rows[0], "winner": missing}, {name: value for name, value in rows[1].items() if name != "winner"}]
    report = prepared(tmp_path, rows).report
    assert report.dropped == {"no_label": 2}
    assert report.sources[0].choice == "by winner: answer_1 where it is 'left'"
    assert report.sources[0].sampling == ""


def test_columns_can_name_nested_fields(tmp_path: Path) -> None:
    row = {"q": {"text": ASK}, "answers": [{"text": BAD}, {"text": GOOD}], "who": {"won": "R"}}
    columns = {
        "instruction": "q.text",
        "response_1": "answers.0.text",
        "response_2": "answers.1.text",
        "label": "who.won",
    }
    data = prepared(tmp_path, [row], columns=columns, labels={"R": "second"})
    assert prepared_texts(data) == [(ASK, GOOD, BAD)]
    with pytest.raises(DataError, match=r"no answers\.2\.text"):
        prepared(tmp_path, [row], columns={**columns, "response_1": "answers.2.text"})


def test_the_scores_of_judged_answers_are_scores_of_the_pair(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{ASK} {n}", "response_a": GOOD, "response_b": BAD, "votes_a": str(first), "votes_b": str(second)}
        for n, (first, second) in enumerate([(9, 10), (29, 6), (3, 12), (4, 4)])
    ]
    columns = {"score_a": "votes_a", "score_b": "votes_b"}
    data = prepared(tmp_path, rows, columns=columns, min_score_margin=6)
    assert [text for _, text, _ in prepared_texts(data)] == [GOOD, BAD]
    assert data.report.dropped == {"score_margin": 1, "tie": 1}
    weighted = prepared(tmp_path, rows, columns=columns, weight_by="score_margin")
    assert sorted(weighted.train["weight"]) == [1.0, 9.0, 23.0]


def test_the_size_of_a_signed_preference_is_the_score_margin(tmp_path: Path) -> None:
    rows = [
        {"context": f"{ASK} {at}", "response1": GOOD, "response2": BAD, "overall_preference": preference}
        for at, preference in enumerate((-3, 1, 2, 0))
    ]
    found = prepared(tmp_path, rows, min_score_margin=2)
    assert found.train["chosen_text"][:] == [GOOD, BAD]
    (source,) = found.report.sources
    assert source.dropped == {"score_margin": 1, "tie": 1}
    assert source.choice == "response1 where overall_preference is below 0, response2 where it is above 0"
    weighted = prepared(tmp_path, rows, weight_by="score_margin")
    assert weighted.train["weight"][:] == [3.0, 1.0, 2.0]
    as_weight = prepared(tmp_path, rows, columns={"weight": "overall_preference"})
    assert as_weight.report.sources[0].dropped == {"no_weight": 1, "tie": 1}


@pytest.mark.parametrize(
    ("row", "columns", "choice"),
    [
        (
            {"answer_a": GOOD, "answer_b": BAD, "winner": "model_a"},
            {},
            "by winner: answer_a where it is 'model_a', answer_b where it is 'model_b', a tie where it is 'tie'",
        ),
        (
            {"links": GOOD, "rechts": BAD, "sieger": "model_a"},
            {"answer_a": "links", "answer_b": "rechts", "winner": "sieger"},
            "by sieger: links where it is 'model_a', rechts where it is 'model_b', a tie where it is 'tie'",
        ),
        (
            {"response_a": GOOD, "response_b": BAD, "score_a": 2, "score_b": 1},
            {},
            "the one with the higher score: score_a and score_b",
        ),
        ({"response_j": GOOD, "response_k": BAD}, {}, "response_j"),
    ],
)
def test_a_report_says_which_answer_is_the_chosen_one(
    tmp_path: Path, row: dict[str, Any], columns: dict[str, str], choice: str
) -> None:
    labels = {name: ["model_b", "tie", "tie"] for name in ("winner", "sieger") if name in row}
    rows = [{"prompt": ASK, **row}]
    rows += [{"prompt": ASK, **row, name: label} for name, values in labels.items() for label in values]
    found = prepared(tmp_path, rows, columns=columns)
    assert f"  chosen: {choice}" in found.report.sources[0].lines()


def test_min_score_margin_drops_pairs(tmp_path: Path) -> None:
    rows = [{"prompt": [user(f"{better}?")], "chosen": GOOD, "rejected": BAD, "score_chosen": better, "score_rejected": 5}
            for better in (5.5, 7, 4)]  # fmt: skip
    rows.append({"prompt": [user(ASK)], "chosen": GOOD, "rejected": BAD})
    rows += [
        {**rows[1], "prompt": [user(f"{score}?")], "score_chosen": score} for score in (float("nan"), 10**400, "N/A")
    ]
    unfiltered = prepared(tmp_path, [*rows, {**rows[0], "prompt": [user("Even?")], "score_chosen": 5}]).report
    assert unfiltered.kept == 8
    assert (unfiltered.sources[0].notes["score_below"], unfiltered.sources[0].notes["score_equal"]) == (1, 1)
    assert any("1 rows have a lower score for the chosen" in each.message for each in unfiltered.sources[0].warnings())
    report = prepared(tmp_path, rows, min_score_margin=1.0).report
    assert report.kept == 1
    assert report.dropped == {"score_margin": 2, "no_score": 4}
