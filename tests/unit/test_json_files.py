"""JSON object files: what is read, and what happens where a file is absent, damaged or another JSON value."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from orpo_cli.errors import MachineError, UsageError
from orpo_cli.json_files import is_number, read_json_lines, read_json_object, read_json_object_or_empty


def test_an_object_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": "ä"}', encoding="utf-8")
    assert read_json_object(path) == read_json_object_or_empty(path) == {"a": "ä"}


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (b"{", "cannot be read"), (b"\xff", "cannot be read"), (b"[1]", "not a JSON object")],
)
def test_another_file_is_an_error_with_its_path_or_empty(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=f"a.json.*{message}") as caught:
        read_json_object(path, remedy="Do it again.")
    assert caught.value.remedy == "Do it again."
    assert read_json_object_or_empty(path) == {}


def test_a_limit_of_the_machine_is_not_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(MachineError, match="may not open more files"):
            read_json_object(path)
        assert read_json_object_or_empty(path) == {}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_incomplete_line_of_a_jsonl_file_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert read_json_lines(path) == []
    path.write_text('{"a": 1}\n{"b": 2}\n{"c"')
    assert read_json_lines(path) == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, True), (-1.5, True), (True, False), ("1", False), (None, False), (float("nan"), False), (float("inf"), False), (10**400, False)],
)  # fmt: skip
def test_only_finite_numbers_are_numbers(value: object, expected: bool) -> None:
    assert is_number(value) is expected
