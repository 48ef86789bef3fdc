"""Two answers and the name of the better one under names that no format has: the mapping that is proposed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.message_rows import data_error, prepared

from orpo_cli.data.first_rows import find_columns
from orpo_cli.data.formats.column_proposals import propose_columns
from orpo_cli.data.formats.detect import detect_format, rename_columns

ASK = ["What is rain?", "What is snow?", "What is fog?", "What is ice?"]


def judged_rows(first: str, second: str, label: str, verdicts: list[Any]) -> list[dict[str, Any]]:
    return [
        {"ask": ask, first: f"The first of {ask}", second: f"The second of {ask}", label: verdict, "by": "me"}
        for ask, verdict in zip(ASK, verdicts, strict=True)
    ]


@pytest.mark.parametrize(
    ("columns", "verdicts", "label"),
    [
        (("model_a", "model_b", "winner"), ["model_a", "model_b", "tie", "model_b"], None),
        (("answer A", "answer B", "better"), ["A", "B", "tie", "b"], "better"),
        (("out1", "out2", "label"), [1, 2, "tie", 2], None),
        (("left", "right", "best"), ["left", "right", "tie", "right"], "best"),
        (("answer_one", "answer_two", "preferred"), ["answer_one", "answer_two", "none", "answer_two"], None),
        (("reply_1", "reply_2", "verdict"), ["first", "second", "both", "second"], "verdict"),
        (("answer_1", "answer_2", "better"), [1, 2, "tie", 2], "better"),
        (("a1", "a2", "better"), ["a1", "a2", "tie", "a2"], "better"),
        (("回答A", "回答B", "更好的回答"), ["A", "B", "平局", "B"], "更好的回答"),
        (("回答1", "回答2", "哪个更好"), [1, 2, "一样好", 2], "哪个更好"),
        (("Antwort A", "Antwort B", "Gewinner"), ["A", "B", "unentschieden", "B"], "Gewinner"),
    ],
)
def test_the_winner_decides_which_answer_is_chosen(
    columns: tuple[str, str, str], verdicts: list[Any], label: str | None, tmp_path: Path
) -> None:
    rows = judged_rows(*columns, verdicts)
    mapping = propose_columns(rows)
    assert mapping is not None
    assert mapping["prompt"] == "ask"
    assert mapping.get("winner") == label
    renamed = [rename_columns(row, mapping) for row in rows]
    format_ = detect_format(renamed, columns=mapping)
    assert format_.name == "judged"
    better = [format_.read(renamed[at], {}).chosen_text for at in (0, 1, 3)]  # type: ignore[arg-type]
    assert better == ["The first of What is rain?", "The second of What is snow?", "The second of What is ice?"]
    file = tmp_path / "judged.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = find_columns(file)
    assert found is not None
    assert (found.mapping, found.unused) == (mapping, ["by"])
    train = prepared(tmp_path, rows, columns=mapping).train
    assert sorted(train["chosen_text"]) == sorted(better)


def test_the_one_answer_that_is_always_better_is_not_the_prompt() -> None:
    rows = judged_rows("a1", "a2", "better", ["a1"] * 4)
    assert propose_columns(rows) == {"prompt": "ask", "response_1": "a1", "response_2": "a2", "winner": "better"}


@pytest.mark.parametrize(
    "names", [("answer_a", "answer_b", "rating_a", "rating_b"), ("modelA", "modelB", "starsA", "starsB")]
)
def test_two_answers_with_their_scores_are_compared(names: tuple[str, str, str, str], tmp_path: Path) -> None:
    scores: list[tuple[Any, Any]] = [(5, 1), ("1", "4.5"), (3, 3), (2, None)]
    rows = [
        {
            "ask": ask,
            names[0]: f"The first of {ask}",
            names[1]: f"The second of {ask}",
            names[2]: first,
            names[3]: second,
        }
        for ask, (first, second) in zip(ASK, scores, strict=True)
    ]
    file = tmp_path / "rated.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = find_columns(file)
    assert found is not None
    assert (found.format, found.mapping["prompt"], found.unused) == ("judged", "ask", [])
    data = prepared(tmp_path, rows, columns=found.mapping)
    assert sorted(data.train["chosen_text"]) == ["The first of What is rain?", "The second of What is snow?"]
    assert data.report.dropped == {"tie": 1, "malformed": 1}


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("edited", "original"),
        ("corrected_answer", "draft_answer"),
        ("after", "before"),
        ("Human edit", "Model output"),
        ("Final reply", "Suggested reply"),
        ("人工修改后的回复", "AI回复"),
        ("改写答案", "原答案"),
    ],
)
def test_an_edited_answer_is_the_better_one(better: str, worse: str) -> None:
    rows = [
        {"original_prompt": ask, "prompt": f"{ask} Say it.", worse: f"It is {ask}", better: f"It is not {ask}"}
        for ask in ASK
    ]
    assert propose_columns(rows) == {"prompt": "prompt", "chosen": better, "rejected": worse}


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("output", "rejected_output"),
        ("preferred_reply", "other_reply"),
        ("response", "badResponse"),
        ("answer", "wrong_answer"),
        ("输出", "负样本"),
        ("正例", "负例"),
        ("Gute Antwort", "Schlechte Antwort"),
        ("respuesta_buena", "respuesta_mala"),
        ("agent_sent", "ai_draft"),
    ],
)
def test_a_name_of_one_of_two_answers_decides(better: str, worse: str) -> None:
    rows = [{"prompt": ask, better: f"It is not {ask}", worse: f"It is {ask}"} for ask in ASK]
    assert propose_columns(rows) == {"prompt": "prompt", "chosen": better, "rejected": worse}


def test_the_input_of_an_instruction_is_kept(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Say why.", "input": ask, "output": f"So: {ask}", "bad_output": f"No: {ask}"} for ask in ASK
    ]
    mapping = propose_columns(rows)
    assert mapping == {"chosen": "output", "rejected": "bad_output"}
    prompts = prepared(tmp_path, rows, columns=mapping).train["prompt_json"]
    assert all("Say why." in prompt and "?" in prompt for prompt in prompts)


def test_an_edit_that_is_missing_where_the_answer_was_good_is_the_better_answer_elsewhere(tmp_path: Path) -> None:
    rows = [
        {"工单号": f"T{at}", "客户问题": ask, "AI回复": f"It is {ask}", "评价": "不满意" if at % 2 else "满意",
         "人工修改后的回复": f"No, {ask}" * (at % 2)}
        for at, ask in enumerate(ASK)
    ]  # fmt: skip
    mapping = propose_columns(rows)
    assert mapping == {"prompt": "客户问题", "chosen": "人工修改后的回复", "rejected": "AI回复"}
    assert prepared(tmp_path, rows, columns=mapping).report.dropped == {"empty_chosen": len(rows[::2])}


def test_earlier_turns_are_mapped(tmp_path: Path) -> None:
    rows = [
        {"提问": ask, "历史": [["Hi", "Hello!"]] if at % 2 else [], "优选": f"{ask} Yes.", "劣选": f"{ask} No."}
        for at, ask in enumerate(ASK)
    ]
    mapping = propose_columns(rows)
    assert mapping == {"instruction": "提问", "history": "历史", "chosen": "优选", "rejected": "劣选"}
    train = prepared(tmp_path, rows, columns=mapping).train
    assert sum("Hello!" in prompt for prompt in train["prompt_json"]) == 2


@pytest.mark.parametrize(
    "row",
    [
        {"ask": "What is rain?", "model_a": "gpt", "model_b": "llama", "winner": "model_a"},  # names of models
        {"ask": "What is rain?", "text_a": "It is water.", "text_b": "It is magic.", "note": "the first is better"},
    ],
)
def test_columns_that_are_no_judged_answers_are_not_proposed(row: dict[str, str], tmp_path: Path) -> None:
    assert propose_columns([row]) is None
    assert "no row looks like preference data" in data_error(tmp_path, [row]).message
