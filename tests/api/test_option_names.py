"""Options of merge and export in the documentation: those that the functions take."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from orpo_cli import merge
from orpo_cli.exporting.export_request import ExportRequest
from orpo_cli.merging.merge_target import MergeRequest

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "python-api.md"


@pytest.mark.parametrize(("function", "request_type"), [("merge", MergeRequest), ("export", ExportRequest)])
def test_the_page_names_every_option(function: str, request_type: type) -> None:
    (row,) = (
        line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{function}(target")
    )
    options = {each.name for each in fields(request_type)} - {"target", "formats"}
    assert {name for name in options if f"`{name}`" not in row and f"{name}=None" not in row} == set()


def test_help_of_merge_names_every_option() -> None:
    assert merge.__doc__ is not None
    assert {each.name for each in fields(MergeRequest) if f"``{each.name}``" not in merge.__doc__} <= {"target"}
