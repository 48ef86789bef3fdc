"""`orpo schema`: the JSON Schema for editors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

Orpo = Callable[..., Any]


def test_schema_prints_the_file_next_to_the_shipped_recipes(orpo_here: Orpo) -> None:
    from orpo_cli.recipe.source.shipped_recipes import shipped_folder

    done = orpo_here("schema")
    assert done.returncode == 0
    assert done.stdout == (shipped_folder() / "recipe.schema.json").read_text(encoding="utf-8")
    Draft202012Validator.check_schema(json.loads(done.stdout))


def test_schema_writes_a_file(tmp_path: Path, orpo_here: Orpo) -> None:
    done = orpo_here("schema", "--output", tmp_path / "s.json")
    assert (done.returncode, done.stdout) == (0, "")
    assert json.loads((tmp_path / "s.json").read_text(encoding="utf-8")) == json.loads(orpo_here("schema").stdout)


@pytest.mark.parametrize("path", [".", "none/s.json"])
def test_an_output_that_cannot_be_written_exits_2(path: str, tmp_path: Path, orpo_here: Orpo) -> None:
    done = orpo_here("schema", "-o", tmp_path / path)
    assert done.returncode == 2
    assert str(tmp_path / path) in done.stderr


def test_a_copied_recipe_has_no_line_for_editors(tmp_path: Path, orpo_here: Orpo) -> None:
    assert orpo_here("init", "mine", "--from", "quickstart", "-o", tmp_path / "mine.yaml").returncode == 0
    for text in (
        (tmp_path / "mine.yaml").read_text(encoding="utf-8"),
        orpo_here("recipes", "show", "quickstart").stdout,
    ):
        assert "SmolLM2" in text
        assert "yaml-language-server" not in text
