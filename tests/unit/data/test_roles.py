"""Roles and keys of messages under the names that public data uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
)

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


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_message_before_the_completions_is_named_by_its_place_in_the_row(tmp_path: Path, position: int) -> None:
    messages = [{"role": role, "content": ASK} for role in ("system", "user", "user")][: max(2, position + 1)]
    messages[position] = {"role": "alien", "content": ASK}
    found = data_error(tmp_path, [{"messages": messages, "chosen": [CHOSEN], "rejected": [REJECTED]}])
    assert f"messages[{position}] has the role 'alien'" in found.message
