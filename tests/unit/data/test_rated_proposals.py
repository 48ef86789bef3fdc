"""One answer a row with its score under names that no format has: the mapping that is proposed, and what is never proposed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.message_rows import data_error, prepared
from support.pair_rows import assistant, user

from orpo_cli.data.first_rows import find_columns
from orpo_cli.data.formats.column_proposals import propose_columns


def rated_rows(prompt: str, answer: str, score: str) -> list[dict[str, Any]]:
    """Three rated answers to each of four questions, as a csv file has them."""
    return [
        {
            "number": str(n),
            prompt: f"What is {thing}?",
            answer: f"{thing} is {kind}.",
            score: str(stars),
            "by": "ABC"[stars % 3],
        }
        for n, thing in enumerate(("rain", "snow", "fog", "ice"))
        for stars, kind in ((1, "magic"), (5, "water"), (3, "weather"))
    ]


@pytest.mark.parametrize(
    "names",
    [
        ("question", "answer", "stars"),
        ("ask", "reply", "rating"),
        ("prompt", "response", "score"),
        ("问题", "回答", "评分"),
    ],
)
def test_rated_answers_are_mapped_to_the_format_of_one_completion_a_row(
    names: tuple[str, str, str], tmp_path: Path
) -> None:
    rows = rated_rows(*names)
    mapping = propose_columns(rows)
    targets = zip(("prompt", "response", "helpfulness"), names, strict=True)
    assert mapping == {target: name for target, name in targets if target != name}
    file = tmp_path / "rated.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = find_columns(file)
    assert found is not None
    assert (found.format, found.mapping, found.unused) == ("helpsteer", mapping, ["number", "by"])
    train = prepared(tmp_path, rows, columns=mapping).train
    assert sorted(train["chosen_text"]) == ["fog is water.", "ice is water.", "rain is water.", "snow is water."]


@pytest.mark.parametrize(
    ("label", "good", "bad"),
    [
        ("feedback", "up", "down"),
        ("thumbs", "👍", "👎🏽"),
        ("is_helpful", "yes", "no"),
        ("verdict", "Good", "bad"),
        ("rating", "thumbs_up", "thumbs_down"),
        ("反馈", "赞", "踩"),
        ("是否采纳", "是", "否"),
        ("liked", "1", "0"),
        ("ok", "True", "False"),
    ],
)
def test_answers_that_are_good_or_bad_are_mapped(label: str, good: str, bad: str, tmp_path: Path) -> None:
    rows = [
        {"id": str(n), "user_question": f"What is {thing}?", "answer": f"{thing} is {kind}.", label: mark}
        for n, thing in enumerate(("rain", "snow", "fog", "ice"))
        for mark, kind in ((good, "water"), (bad, "magic"))
    ]
    mapping = propose_columns(rows)
    assert mapping == {"prompt": "user_question", "completion": "answer", "label": label}
    rows.append({"id": "9", "user_question": "What is ice?", "answer": "Ice is cold.", label: "perhaps"})
    prepared_rows = prepared(tmp_path, rows, columns=mapping)
    assert prepared_rows.report.dropped == {"malformed": 1}
    assert sorted(prepared_rows.train["chosen_text"]) == [
        "fog is water.",
        "ice is water.",
        "rain is water.",
        "snow is water.",
    ]


@pytest.mark.parametrize(
    "names",
    [
        ("用户提问", "客服回复"),
        ("问题", "最终答复"),
        ("last_question", "agent_reply"),
        ("user_input", "assistant_text"),
    ],
)
def test_names_that_contain_a_usual_word_are_mapped(names: tuple[str, str]) -> None:
    rows = [
        {names[0]: f"What is {thing}?", names[1]: answer, "ok": mark}
        for thing in ("rain", "snow")
        for mark, answer in (("yes", "It is water."), ("no", "I do not know."))
    ]
    assert propose_columns(rows) == {"prompt": names[0], "completion": names[1], "label": "ok"}


def test_a_label_is_named_in_the_line_to_complete(tmp_path: Path) -> None:
    rows = [
        {"said": f"What is {thing} {n}?", "heard": f"{thing} is water {n}.", "ok": "yes" if n % 2 else "no"}
        for n, thing in enumerate(("rain", "snow", "fog", "ice"))
    ]
    remedy = str(data_error(tmp_path, rows).remedy)
    assert "`columns: {prompt: PROMPT, completion: ANSWER, label: ok}`, if ok says which answers are good" in remedy


@pytest.mark.parametrize(
    ("prompt", "answers", "mapping"),
    [
        ("q_text", "candidates", {"prompt": "q_text"}),
        ("question", "cands", {"responses": "cands"}),
        ("ask", "texts", {"prompt": "ask", "responses": "texts", "scores": "grades"}),
    ],
)
def test_lists_of_answers_under_other_names_are_mapped(
    prompt: str, answers: str, mapping: dict[str, str], tmp_path: Path
) -> None:
    objects = [{"output": "It is water.", "votes": 3}, {"output": "No idea.", "votes": 1}]
    lists = {"texts": ["It is water.", "No idea."], "grades": [3, 1]} if answers == "texts" else {answers: objects}
    rows = [{prompt: f"What is {thing} made of?", **lists} for thing in ("rain", "snow", "fog", "ice")]
    assert propose_columns(rows) == mapping
    assert set(prepared(tmp_path, rows, columns=mapping).train["chosen_text"]) == {"It is water."}


def test_rated_answers_to_a_conversation_are_mapped(tmp_path: Path) -> None:
    chats = [[user("Hi"), assistant("Hello"), user(f"What is {thing}?")] for thing in ("rain", "snow", "fog")]
    rows = [
        {"conversation": chat, "reply": f"{'Water' if stars > 3 else 'I cannot say'}, as in {n}.", "stars": stars}
        for n, chat in enumerate(chats)
        for stars in (5, 2)
    ]
    mapping = propose_columns(rows)
    assert mapping == {"prompt": "conversation", "response": "reply", "helpfulness": "stars"}
    train = prepared(tmp_path, rows, columns=mapping).train
    assert all(text.startswith("Water") for text in train["chosen_text"])
    assert sum("Hello" in prompt for prompt in train["prompt_json"]) == len(chats)


def test_numbers_that_are_not_named_as_labels_are_none() -> None:
    rows = [
        {"question": f"What is {n % 4}?", "answer": f"The number {n} of all.", "fold": str(n % 2)} for n in range(8)
    ]
    assert propose_columns(rows) is None


def test_a_score_of_one_answer_per_question_is_mapped_only_on_a_condition(tmp_path: Path) -> None:
    rows = rated_rows("question", "answer", "stars")[::3]
    rows = [{**row, "stars": str(at)} for at, row in enumerate(rows)]
    assert propose_columns(rows) is None
    remedy = str(data_error(tmp_path, rows).remedy)
    assert "If other rows have more answers to the same prompt" in remedy
    assert "columns: {prompt: question, response: answer, helpfulness: stars}" in remedy


@pytest.mark.parametrize(
    "others",
    [
        {"id": "17"},
        {"id": "q17-3"},
        {"day": "2024-05-01"},
        {"at": "2024-05-01T10:00:00Z"},
        {"reviewer": "anna", "category": "weather"},
        {"good": "12", "bad": "7"},
        {"best": "gpt-3.5", "worst": "llama"},
        {"best": "llama"},
        {"good": "This is a nice one."},
        {"comment": "This is one of the better ones."},
    ],
)
def test_ids_numbers_dates_and_labels_are_never_proposed_as_texts(others: dict[str, str], tmp_path: Path) -> None:
    rows = [{**others, "question": f"What is {n} times two?", "answer": f"It is {2 * n} of them."} for n in range(9)]
    assert propose_columns(rows) is None
    assert "columns:" not in str(data_error(tmp_path, rows).remedy)


@pytest.mark.parametrize(
    ("row", "missing"),
    [
        ({"prompt": "What is rain?", "chosen": "It is water."}, "rejected"),
        ({"prompt": "What is rain?", "rejected": "It is magic."}, "chosen"),
        ({"prompt": "What is rain?", "response": "It is water."}, "helpfulness"),
    ],
)
def test_the_one_missing_column_of_a_known_format_is_named(row: dict[str, str], missing: str, tmp_path: Path) -> None:
    assert data_error(tmp_path, [row]).remedy == (
        f"The column {missing} is missing: add it, or name the column that has it with `columns: {{{missing}: …}}`."
    )


@pytest.mark.parametrize("column", ["chosen", "rejected"])
def test_completions_that_are_nearly_all_bare_numbers_are_a_warning(column: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"Ask {n}", "chosen": f"Good {n}", "rejected": f"Bad {n}", "id": str(n)} for n in range(10)]
    report = prepared(tmp_path, rows, columns={column: "id"}).report.sources[0]
    assert f"  warning: 10 rows have a bare number as {column} completion: probably `columns:`" in "\n".join(
        report.lines()
    )
    assert "is_number" not in " ".join(
        prepared(tmp_path, [*rows[:8], {**rows[8], "chosen": "8"}]).report.sources[0].notes
    )
