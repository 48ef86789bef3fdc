"""Prompts under other columns, and the mapping that the error proposes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.message_rows import (
    ASK,
    BAD,
    CALL,
    CHOSEN,
    EXPECTED,
    GOOD,
    REJECTED,
    SYSTEM_ROWS,
    USER,
    data_error,
    prepared,
    read_row,
)

from orpo_cli.data.pair import Message

MESSAGES = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [{"function": CALL}]},
    {"role": "tool", "content": "4 C"},
]


@pytest.mark.parametrize("answers", [(CHOSEN, REJECTED), ([CHOSEN], [REJECTED]), (GOOD, BAD)])
def test_messages_before_single_answers_are_the_prompt(answers: tuple[Any, Any]) -> None:
    pair = read_row({"messages": MESSAGES, "chosen": answers[0], "rejected": answers[1]})
    assert [message.role for message in pair.prompt] == ["user", "assistant", "tool"]  # type: ignore[union-attr]
    assert (pair.chosen, pair.rejected) == (EXPECTED.chosen, EXPECTED.rejected)
    assert read_row({"messages": [USER, CHOSEN], "chosen": answers[0], "rejected": answers[1]}) == EXPECTED


def test_messages_are_not_read_beside_a_prompt_or_conversations(tmp_path: Path) -> None:
    other = [{"role": "user", "content": "Other?"}]
    for row in (SYSTEM_ROWS["messages"], SYSTEM_ROWS["conversations"]):
        assert read_row({**row, "messages": other}) == EXPECTED
        assert prepared(tmp_path, [{**row, "messages": other}]).report.sources[0].unused_columns == ["messages"]


@pytest.mark.parametrize(
    ("column", "value"),
    [("input", ASK), ("frage", ASK), ("user_query", ASK), ("dialogue", [USER]), ("last prompt", ASK)],
)
@pytest.mark.parametrize("answers", [(GOOD, BAD), ("It is air.", "It is magic."), (CHOSEN, REJECTED)])
def test_a_row_without_a_prompt_names_the_unused_column(
    column: str, value: Any, answers: tuple[Any, Any], tmp_path: Path
) -> None:
    row = {"system": "Be brief.", column: value, "chosen": answers[0], "rejected": answers[1], "status": "tie", "n": 1}
    found = data_error(tmp_path, [row])
    assert f"no prompt, and {column} is not used" in found.message
    name = json.dumps(column) if " " in column else column
    assert f"columns: {{prompt: {name}}}" in str(found.remedy)
    assert prepared(tmp_path, [row], columns={"prompt": column}).report.kept == 1


def test_a_judged_row_without_a_prompt_names_the_unused_column(tmp_path: Path) -> None:
    row = {"user_question": ASK, "response_a": "It is air.", "response_b": "It is magic.", "preferred": "a", "id": 1}
    found = data_error(tmp_path, [row])
    assert "no prompt, and user_question is not used" in found.message
    assert "columns: {prompt: user_question}" in str(found.remedy)
    assert prepared(tmp_path, [row], columns={"prompt": "user_question"}).report.kept == 1


def test_the_common_start_of_texts_is_a_prompt_only_without_other_prompts(tmp_path: Path) -> None:
    rows = [
        {"chosen": f"Q{n}: why?\nA: air", "rejected": f"Q{n}: why?\nA: magic", "source": "web", "id": f"{n:x}"}
        for n in range(9)
    ]
    assert prepared(tmp_path, rows).report.kept == 9
    noted = [{**row, "critique": f"Number {n} is better."} for n, row in enumerate(rows)]
    refused = data_error(tmp_path, noted)
    assert "no prompt, and critique is not used" in refused.message
    assert "set `format: preference` instead" in str(refused.remedy)
    assert prepared(tmp_path, noted, format="preference").report.kept == 9
    with_prompts = [{"prompt": f"Say {n}", "chosen": "yes it is", "rejected": "yes or no"} for n in range(9)]
    report = prepared(tmp_path, [*with_prompts, {**with_prompts[0], "prompt": None}]).report.sources[0]
    assert report.dropped == {"empty_prompt": 1}
    assert "most rows of the source have one" in report.examples["empty_prompt"][0]


def test_the_input_of_a_judged_instruction_is_part_of_the_prompt() -> None:
    row = {"instruction": "Translate.", "input": "Guten Tag", "output_1": GOOD, "output_2": BAD, "preference": 1}
    assert read_row(row).prompt == (Message("user", "Translate.\nGuten Tag"),)


def test_a_second_prompt_column_of_judged_rows_is_listed_as_unused(tmp_path: Path) -> None:
    row = {"question": ASK, "context": "A lesson.", "response_1": GOOD, "response_2": BAD, "label": 1}
    assert prepared(tmp_path, [row]).report.sources[0].unused_columns == ["context"]


def test_rows_of_no_format_get_a_mapping_to_try(tmp_path: Path) -> None:
    row = {"id": "x1", "question": ASK, "good_answer": GOOD, "bad_answer": BAD, "score": 2}
    remedy = str(data_error(tmp_path, [row]).remedy)
    assert "columns: {prompt: question, chosen: good_answer, rejected: bad_answer}" in remedy
    columns = {"prompt": "question", "chosen": "good_answer", "rejected": "bad_answer"}
    assert prepared(tmp_path, [row], columns=columns).report.kept == 1
    renamed = {"query": ASK, "preferred": GOOD, "non_preferred": BAD}
    assert "columns: {prompt: query, chosen: preferred, rejected: non_preferred}" in str(
        data_error(tmp_path, [renamed]).remedy
    )


def test_a_missing_answer_names_the_column_to_map(tmp_path: Path) -> None:
    row = {"prompt": [USER], "chosen": [CHOSEN], "rejected": [REJECTED]}
    without = {"prompt": [USER], "chosen": [CHOSEN]}
    report = prepared(tmp_path, [row, without, {**row, "rejected": None}, {**row, "chosen": None}]).report.sources[0]
    assert report.dropped == {"malformed": 1, "empty_rejected": 1, "empty_chosen": 1}
    assert report.remedies["malformed"] == [
        "Give both completions, or map their columns with `columns: {rejected: …}`."
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"问题": "天空为什么是蓝色的？", "好": "因为空气散射蓝光最多。"},
        {"question": "What is rain?", "reply": "It is water."},
    ],
)
def test_a_row_with_one_answer_is_told_that_two_are_needed(row: dict[str, str], tmp_path: Path) -> None:
    remedy = data_error(tmp_path, [row]).remedy
    assert remedy is not None
    assert remedy.startswith("A pair needs two answers, a better and a worse one.")
    assert "columns:" not in remedy
