"""Rows that a program could not have meant: dropped with a reason, or an error that names the row; never a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.tiny import CHATML, pairs, tiny_tokenizer

from orpo_cli.data.prepare import PreparedData, prepare
from orpo_cli.errors import DataError
from orpo_cli.recipe.schema import DatasetSection

TOOLS_TEMPLATE = "{% if tools %}{{ tools|tojson }}{% endif %}" + CHATML.replace(
    "+ message['content']", "+ message['content'] + (message.tool_calls|tojson if message.tool_calls else '')"
)
MESSAGES = json.dumps(pairs(1, start=90)[0])


def prepared(row: str, folder: Path, *, template: str = TOOLS_TEMPLATE) -> PreparedData:
    (folder / "x.jsonl").write_text("\n".join([*map(json.dumps, pairs(3)), row]) + "\n")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    section = DatasetSection.model_validate({"train": {"path": str(folder / "x.jsonl")}})
    found = prepare(section, tokenizer, max_length=4096, max_prompt_length=2048, note=lambda _: None)
    list(found.train)
    json.dumps(found.report.as_dict(), ensure_ascii=False).encode()
    return found


def with_tools(value: str) -> str:
    return f'{MESSAGES[:-1]}, "tools": {value}}}'


DROPPED = {
    "surrogate in a message": (MESSAGES.replace("What", "W\\ud800"), "half of a surrogate pair"),
    "surrogate in a role": (MESSAGES.replace('"user"', '"us\\ud800er"'), "has the role"),
    "surrogate in a tool": (
        with_tools('[{"type": "function", "function": {"name": "\\ud800"}}]'), "tools contains half of a surrogate pair"
    ),
    "nested tools": (with_tools('[{"a": ' + "[" * 900 + "]" * 900 + "}]"), ""),
    "nested tools as text": (with_tools(json.dumps("[" * 100_000)), "tools is not JSON"),
    "an object for a message": (MESSAGES.replace('"content": "It is', '"content": {"a": 1}, "x": "It is'), "not text"),
    "a number": ("1e400", "not an object"),
    "NaN": ("NaN", "not an object"),
}  # fmt: skip


@pytest.mark.parametrize("name", DROPPED)
def test_a_hostile_row_is_dropped_with_its_reason(name: str, tmp_path: Path) -> None:
    row, reason = DROPPED[name]
    report = prepared(row, tmp_path).report
    assert report.kept == 3
    ((example,),) = report.sources[0].examples.values()
    assert example.startswith("x.jsonl:4 (")
    assert reason in example


@pytest.mark.parametrize(
    "row",
    [
        MESSAGES.replace("What", "W\\u0000hat"),
        f'{MESSAGES[:-1]}, "\\ud800": 1}}',
        f'{MESSAGES[:-1]}, "x": NaN, "y": -Infinity, "z": 1e400}}',
        f'{MESSAGES[:-1]}, "x": {"[" * 900 + "]" * 900}}}',
        f'{{"prompt": "another one", {MESSAGES[1:]}',  # a key twice: the last one counts, as in every JSON library
    ],
)
def test_what_does_not_matter_is_ignored(row: str, tmp_path: Path) -> None:
    assert prepared(row, tmp_path).report.kept == 4


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f'{MESSAGES[:-1]}, "x": {"9" * 10_000}}}', "x.jsonl:4: not JSON: Exceeds the limit"),
        (MESSAGES.replace("What", "W\0hat"), "x.jsonl:4: not JSON: Invalid control character"),
        ("[" * 100_000, "after row 3: its JSON is nested too deeply"),
    ],
)
def test_what_is_not_json_is_an_error(row: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        prepared(row, tmp_path)
