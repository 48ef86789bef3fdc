"""Tools, tool calls and results of tools, in the forms that public data uses, and in the rendered text."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.data_tokenizers import byte_level
from support.message_rows import (
    BAD,
    CALL,
    CHOSEN,
    EXPECTED,
    REJECTED,
    SYSTEM_ROWS,
    USER,
    read_row,
)
from support.pair_rows import assistant, user
from support.prepared_rows import prepare_dataset, write_source

from orpo_cli.data.formats.detect import detect_format
from orpo_cli.data.pair import Message, RowRejected
from orpo_cli.data.table import expand_pair

TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {}}},
}


SHOWS_TOOLS = (
    "{% for tool in tools or [] %}TOOL {{ tool.function.name }}\n{% endfor %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}CALL {{ call.function.name }} {{ call.function.arguments | tojson }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def swift_row(*calls: Any) -> dict[str, Any]:
    turns = [
        USER,
        *({"role": "tool_call", "content": call} for call in calls),
        {"role": "tool_response", "content": "4 C"},
    ]
    return {"messages": [*turns, CHOSEN], "rejected_response": BAD}


@pytest.mark.parametrize("call", [json.dumps(CALL), CALL, str(CALL), {"function": CALL}, [CALL]])
def test_tool_roles_of_ms_swift_are_calls_and_results(call: Any) -> None:
    pair = read_row(swift_row(call))
    assert [message.role for message in pair.prompt] == ["user", "assistant", "tool"]  # type: ignore[union-attr]
    assert pair.prompt[1].tool_calls == [{"type": "function", "function": CALL}]  # type: ignore[union-attr]
    assert pair.prompt[2] == Message("tool", "4 C")


def test_tool_calls_of_one_turn_are_one_message() -> None:
    second = {"name": "weather", "arguments": {"city": "Bonn"}}
    pair = read_row(swift_row(CALL, second))
    assert [each["function"] for each in pair.prompt[1].tool_calls] == [CALL, second]  # type: ignore[union-attr]
    spoken = {"messages": [USER, {"role": "assistant", "content": "I look."}, *swift_row(CALL)["messages"][1:]],
              "rejected_response": BAD}  # fmt: skip
    message = read_row(spoken).prompt[1]
    assert isinstance(message, Message)
    assert (message.content, len(message.tool_calls)) == ("I look.", 1)


@pytest.mark.parametrize("role", ["tool", "function", "ipython", "observation", "tool_response"])
@pytest.mark.parametrize("content", [{"t": 4}, [1, {"t": 4}], '{"t": 4}'])
def test_results_of_tools_may_be_data(role: str, content: Any) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": CALL}]}
    row = {"prompt": [USER, call, {"role": role, "content": content}], "chosen": [CHOSEN], "rejected": [REJECTED]}
    assert read_row(row).prompt[2].content == (content if isinstance(content, str) else json.dumps(content))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "function_call": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
        {"content": None, "tool_calls": json.dumps([CALL])},
        {"content": None, "tool_calls": [{"name": "weather", "parameters": {"city": "Oslo"}}]},
    ],
)
def test_older_forms_of_tool_calls_are_read(message: dict[str, Any]) -> None:
    row = {"prompt": [USER], "chosen": [{"role": "assistant", **message}], "rejected": BAD}
    assert read_row(row).chosen[0].tool_calls[0]["function"] == CALL  # type: ignore[union-attr]


def test_null_calls_of_a_table_are_no_calls() -> None:
    nulls = {"function_call": {"name": None, "arguments": None}, "tool_calls": None}
    assert (
        read_row({"prompt": [{**USER, **nulls}], "chosen": [{**CHOSEN, **nulls}], "rejected": [REJECTED]}) == EXPECTED
    )


@pytest.mark.parametrize("form", [lambda tool: json.dumps([tool]), lambda tool: [json.dumps(tool)], str, dict])
def test_tools_may_be_text_or_one_object(form: Any) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"properties": {}}}}
    row = {"prompt": [USER], "chosen": [CHOSEN], "rejected": [REJECTED], "tools": form(tool)}
    assert read_row(row).tools == (tool,)


def test_tool_calls_are_rendered_by_the_template(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    chosen = {"role": "assistant", "content": None, "tool_calls": [call]}
    row = {"prompt": [user("Rain?")], "chosen": [chosen], "rejected": [assistant("No idea.")], "tools": [TOOL]}
    dataset = {"train": {**write_source(tmp_path / "x.jsonl", [row, SYSTEM_ROWS["messages"]]), "format": "preference"}}
    lengths = {"max_length": 400, "max_prompt_length": 300}
    tokenizer = byte_level(["<s>", "</s>", "<|im_start|>", "<|im_end|>"], SHOWS_TOOLS)
    data = prepare_dataset(dataset, tokenizer=tokenizer, **lengths)
    pair = expand_pair(data.train[0])
    prompt, full = (tokenizer.decode(pair[name]) for name in ("prompt_input_ids", "chosen_input_ids"))
    assert prompt == "TOOL weather\n<|im_start|>user\nRain?<|im_end|>\n<|im_start|>assistant\n"
    assert full == prompt + 'CALL weather {"city": "Oslo"}<|im_end|>'
    assert data.report.kept == 2
    without_tools = prepare_dataset(dataset, **lengths)  # the call would be lost
    assert without_tools.report.dropped == {"template_error": 1}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ([{"function": {"arguments": {}}}], "without a name"),
        ("weather()", "not a list"),
        ([{"function": {"name": "weather", "arguments": "{city"}}], "not JSON"),
    ],
)
def test_an_invalid_tool_call_names_the_reason(call: Any, message: str) -> None:
    row = {"prompt": [USER], "chosen": [{"role": "assistant", "content": "", "tool_calls": call}], "rejected": BAD}
    with pytest.raises(RowRejected, match=message):
        detect_format([row], "preference").read(row, Counter())


def test_sharegpt_function_calls_are_separate_turns() -> None:
    row = {"conversations": [{"from": "human", "value": "Rain?"}], "tools": json.dumps([TOOL]),
           "chosen": {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": {"city": "Oslo"}})},
           "rejected": {"from": "gpt", "value": "No idea."}}  # fmt: skip
    pair = detect_format([row]).read(row, Counter())
    assert pair.tools == (TOOL,)
    assert pair.chosen[-1].tool_calls[0]["function"] == {"name": "weather", "arguments": {"city": "Oslo"}}  # type: ignore[union-attr]
