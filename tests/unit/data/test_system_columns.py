"""System texts in a column beside the messages."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.message_rows import (
    ASK,
    BAD,
    CHOSEN,
    EXPECTED,
    GOOD,
    REJECTED,
    SYSTEM_ROWS,
    USER,
    WITH_SYSTEM,
    data_error,
    prepared,
    read_row,
    rejection,
    text_of,
)


@pytest.mark.parametrize("name", SYSTEM_ROWS)
@pytest.mark.parametrize("column", ["system", "system_prompt", "system_message"])
def test_a_system_column_is_the_first_message_in_every_format(name: str, column: str) -> None:
    assert read_row({**SYSTEM_ROWS[name], column: "Be brief."}) == WITH_SYSTEM
    assert read_row({**SYSTEM_ROWS[name], column: None}) == read_row({**SYSTEM_ROWS[name], column: " "}) == EXPECTED


def test_a_system_column_can_hold_a_message() -> None:
    row = SYSTEM_ROWS["messages"]
    assert read_row({**row, "system": [{"role": "system", "content": "Be brief."}]}) == WITH_SYSTEM
    assert "another role" in rejection({**row, "system": [USER]}).detail


def test_the_system_column_of_scored_completions_is_used() -> None:
    completions = [{"response": GOOD, "overall_score": 9}, {"response": BAD, "overall_score": 1}]
    pair = read_row({"instruction": ASK, "completions": completions, "system": "Be brief."})
    assert pair.prompt == WITH_SYSTEM.prompt


def test_the_system_text_of_text_rows_is_trained(tmp_path: Path) -> None:
    data = prepared(tmp_path, [{"system": "Be brief.", "prompt": ASK, "chosen": GOOD, "rejected": BAD}])
    assert text_of(data) == (
        f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n{GOOD}<|im_end|>"
    )
    assert data.report.sources[0].unused_columns == []


def test_answers_of_one_prompt_form_a_pair_only_under_the_same_system_text(tmp_path: Path) -> None:
    rows = [
        {"prompt": ASK, "completion": GOOD, "label": True, "system": "Be brief."},
        {"prompt": ASK, "completion": "Magic.", "label": False, "system": "Be long."},
        {"prompt": ASK, "completion": BAD, "label": False, "system": "Be brief."},
    ]
    data = prepared(tmp_path, rows)
    assert data.report.dropped == {"unpaired": 1}
    assert "system\nBe brief.<" in text_of(data)


def test_a_system_column_beside_a_system_message_is_counted(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be long."}, USER]
    rows = [
        {"prompt": turns, "chosen": GOOD, "rejected": BAD, "system": "Be brief."},
        {"prompt": [*turns[:1], {**USER, "content": "Why?"}], "chosen": GOOD, "rejected": BAD, "system": "Be long."},
    ]
    data = prepared(tmp_path, rows)
    assert "system\nBe long.<" in text_of(data)
    assert data.report.sources[0].notes["system_column_unused"] == 1


def test_a_system_text_alone_is_no_prompt(tmp_path: Path) -> None:
    assert (
        "empty_prompt"
        in data_error(tmp_path, [{"chosen": [CHOSEN], "rejected": [REJECTED], "system": "Be brief."}]).message
    )
