"""Messages as JSON, Python or NumPy text in a cell."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import Any

import pytest
from support.data_tokenizers import tokenizer_of
from support.message_rows import ASK, BAD, CHOSEN, EXPECTED, GOOD, REJECTED, USER, prepared, read_row, text_of

from orpo_cli.data.json_text import parse_cells, parse_json_text
from orpo_cli.data.prepare import prepare
from orpo_cli.recipe.schema import DatasetSection

PYTHON = "[{'role': 'user', 'content': \"it's\"}, {'role': 'assistant', 'content': None, 'x': True}]"
NUMPY = "[{'content': 'a}\\n {b', 'role': 'user'}\n {'content': \"it's\", 'role': 'assistant'}]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (json.dumps([USER, CHOSEN]), [USER, CHOSEN]),
        (json.dumps(json.dumps([USER])), [USER]),
        (f"\n {json.dumps([USER], indent=2)} ", [USER]),
        (PYTHON, [{"role": "user", "content": "it's"}, {"role": "assistant", "content": None, "x": True}]),
        (NUMPY, [{"content": "a}\n {b", "role": "user"}, {"content": "it's", "role": "assistant"}]),
    ],
)
def test_json_python_and_numpy_text_is_parsed(text: str, expected: Any) -> None:
    assert parse_json_text(text) == expected
    assert parse_cells({"chosen": text}) == {"chosen": expected}


@pytest.mark.parametrize(
    "answer",
    [
        '{"name": "Ann", "role": "admin", "content": "x"}',  # an object with a role that is none of a conversation
        '[{"role": "admin"}]',
        '{"from": "Oslo", "to": "Bonn"}',
        "[1, 2]",
        '["a", "b"]',
        "{role}",
        '"from" quoted',
        "__import__('os').system('role')",
    ],
)
def test_json_that_is_no_messages_stays_text(answer: str) -> None:
    row = {"prompt": "Write JSON.", "chosen": answer, "rejected": "no"}
    assert parse_cells(row) is row


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '[{"role": ' * 50_000,
        "{'role': " + "-" * 100_000 + "1}",
        "[{'role': '" + "\\x'" * 50_000,
        "{'role': 9" + "9" * 9999,
        "[{'role': 'user', 'content': 'hi', 'tags': {'a', 'b'}}]",
    ],
)
def test_hostile_text_is_no_json(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # each library has its own message
        parse_json_text(text)
    assert parse_cells({"chosen": text}) == {"chosen": text}


def test_python_text_has_the_values_of_json() -> None:
    text = "[{'role': 'user', 'content': ('a', 'b'), 1: None}]"
    assert parse_json_text(text) == [{"role": "user", "content": ["a", "b"], "1": None}]


@pytest.mark.parametrize("encode", [json.dumps, str])
def test_messages_as_text_are_read_in_every_format(encode: Any, tmp_path: Path) -> None:
    rows = [
        {"prompt": ASK, "chosen": encode([USER, CHOSEN]), "rejected": encode([USER, REJECTED])},
        {"chosen": encode([USER, CHOSEN]), "rejected": encode([USER, REJECTED])},
        {"prompt": encode([USER]), "chosen": encode(CHOSEN), "rejected": encode(REJECTED)},
        {"messages": encode([USER, CHOSEN]), "rejected_response": BAD},
        {"conversations": encode([{"from": "human", "value": ASK}]), "chosen": encode(CHOSEN), "rejected": encode(REJECTED)},
        {"input": encode({"messages": [USER]}), "preferred_output": encode([CHOSEN]), "non_preferred_output": encode([REJECTED])},
        {"conversation_a": encode([USER, CHOSEN]), "conversation_b": encode([USER, REJECTED]), "winner": "A"},
        {"prompt": [encode(USER)], "chosen": [encode(CHOSEN)], "rejected": [encode(REJECTED)]},
    ]  # fmt: skip
    for row in rows:
        assert read_row(parse_cells(row)) == EXPECTED
    scored = encode([{"response": GOOD, "overall_score": 9}, {"response": BAD, "overall_score": 1}])
    assert read_row(parse_cells({"instruction": ASK, "completions": scored})).chosen == EXPECTED.chosen
    with (tmp_path / "x.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ("prompt", "chosen", "rejected"))
        writer.writeheader()
        writer.writerow(rows[0])
    section = DatasetSection.model_validate({"train": {"path": str(tmp_path / "x.csv")}})
    data = prepare(section, tokenizer_of("chatml"), max_length=400, max_prompt_length=300, note=lambda _: None)
    assert text_of(data) == f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n{GOOD}<|im_end|>"
    assert data.report.sources[0].notes["json_text_messages"] == 1


def test_damaged_text_of_messages_is_dropped_with_its_row(tmp_path: Path) -> None:
    good = {"prompt": ASK, "chosen": json.dumps([CHOSEN]), "rejected": json.dumps([REJECTED])}
    cut = {**good, "chosen": json.dumps([CHOSEN])[:-9]}
    report = prepared(tmp_path, [good, cut]).report.sources[0]
    assert report.dropped == {"malformed": 1}
    assert "x.jsonl:2 (chosen holds messages as text that is not JSON" in report.examples["malformed"][0]
    assert "format: text" in report.remedies["malformed"][0]


def test_text_of_messages_is_kept_by_the_format_text(tmp_path: Path) -> None:
    row = {"prompt": "Write messages.\n", "chosen": json.dumps([CHOSEN]), "rejected": json.dumps([REJECTED])}
    assert GOOD in text_of(data := prepared(tmp_path, [row], format="text"))
    assert json.dumps([CHOSEN]) in text_of(data)


def test_text_that_was_encoded_twice_is_searched_once() -> None:
    damaged = '[{\\"role\\": \\"user\\", \\"content\\": \\"' + "abc" * 4 + '\\"}, ' * 20_000
    began = time.process_time()
    assert parse_cells({"prompt": damaged}) == {"prompt": damaged}
    assert time.process_time() - began < 5  # minutes, if every quote is searched to the end of the text
