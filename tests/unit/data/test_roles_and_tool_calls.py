"""Roles, keys and tool calls of messages under the names that public data uses."""

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
    WITH_SYSTEM,
    data_error,
    prepared,
    read_row,
)

from orpo_cli.data.pair import Message
from orpo_cli.data.roles import ROLES


@pytest.mark.parametrize("role", ["developer", "Developer", " system "])
def test_developer_is_system(role: str) -> None:
    row = {"prompt": [{"role": role, "content": "Be brief."}, USER], "chosen": [CHOSEN], "rejected": [REJECTED]}
    assert read_row(row) == WITH_SYSTEM


@pytest.mark.parametrize("role", ["prompter", "human", "Human"])
def test_names_of_the_user_are_read(role: str) -> None:
    row = {"prompt": [{"role": role, "content": ASK}], "chosen": {"role": "ai", "content": GOOD}, "rejected": BAD}
    assert read_row(row) == EXPECTED


@pytest.mark.parametrize("keys", [("role", "text"), ("from", "value"), ("role", "parts")])
def test_names_of_keys_are_read(keys: tuple[str, str]) -> None:
    def message(role: str, text: str) -> dict[str, Any]:
        return {keys[0]: role, keys[1]: [{"text": text}] if keys[1] == "parts" else text}

    row = {"prompt": [message("user", ASK)], "chosen": [message("model", GOOD)], "rejected": [message("model", BAD)]}
    assert read_row(row) == EXPECTED


def test_an_unknown_role_names_all_known_roles(tmp_path: Path) -> None:
    rows = [{"prompt": [{"role": "wizard", "content": ASK}], "chosen": [CHOSEN], "rejected": [REJECTED]}]
    found = data_error(tmp_path, rows)
    assert "prompt[0] has the role 'wizard'" in found.message
    assert all(f" {role}" in str(found.remedy) for role in ROLES)
    assert "format:" not in str(found.remedy)
    kept = prepared(tmp_path, [*rows, SYSTEM_ROWS["messages"]]).report.sources[0].lines()
    assert any("Known roles: system, developer" in line and "tool_call" in line for line in kept)


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
