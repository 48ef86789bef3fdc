"""Secret values from environment variables: used, and never shown or written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orpo_cli import secret_values
from orpo_cli.machine import Machine
from orpo_cli.planning.plan import Plan
from orpo_cli.planning.resolve import resolve
from orpo_cli.recipe.load import load_recipe
from orpo_cli.secret_values import mask_secrets, register_secrets, unmask_secrets

CPU = Machine("cpu", "a processor", 1, None, 8 << 30, 2, False, False, 1 << 40, "3.11", "Linux")


@pytest.fixture(autouse=True)
def no_registered_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_values, "_names", set())


def test_a_name_replaces_the_value_everywhere_and_is_replaced_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "swordfish")
    monkeypatch.setenv("B_KEY", "swordfishes")
    value: dict[str, Any] = {"a": ["x swordfish y", {"b": "swordfishes"}], "n": 1, "t": True, "z": None}
    assert mask_secrets(value) == value
    register_secrets(["A_KEY", "B_KEY", "NOT_SET"])
    covered = mask_secrets(value)
    assert covered == {"a": ["x ${A_KEY} y", {"b": "${B_KEY}"}], "n": 1, "t": True, "z": None}
    assert unmask_secrets(covered, ["A_KEY", "B_KEY"]) == value
    monkeypatch.delenv("B_KEY")
    assert unmask_secrets(covered, ["A_KEY", "B_KEY"])["a"][1] == {"b": "${B_KEY}"}


def test_short_values_and_numbers_are_not_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "abc")
    monkeypatch.setenv("B_KEY", "2024")
    register_secrets(["A_KEY", "B_KEY"])
    assert mask_secrets({"abcd": "abcd", "year": 2024, "text": "in 2024"}) == {
        "abcd": "abcd",
        "year": 2024,
        "text": "in ${B_KEY}",
    }


def test_a_plan_has_the_value_and_plan_json_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_TOKEN", "swordfish")
    (tmp_path / "r.yaml").write_text(
        "model: {model_name_or_path: a/b, token: '${DATA_TOKEN}'}\ndataset: {train: {path: pairs.jsonl}}\n"
    )
    plan = resolve(load_recipe(str(tmp_path / "r.yaml")), CPU, None)
    assert plan.model.token == "swordfish"
    assert "swordfish" not in plan.to_json()
    assert Plan.from_document(json.loads(plan.to_json())) == plan
    assert plan.to_document()["secrets"]["value"] == ["DATA_TOKEN"]


def test_a_value_with_a_line_break_at_its_end_is_restored_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "swordfish\n")
    register_secrets(["A_KEY"])
    for value in ("swordfish\n", "https://example.org/swordfish\n?x"):
        covered = mask_secrets(value)
        assert "swordfish" not in covered
        assert unmask_secrets(covered, ["A_KEY"]) == value
    assert mask_secrets("the library says swordfish") == "the library says ${A_KEY}"


def test_the_environment_is_searched_again_only_after_a_change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("A_TOKEN", "Swordfish1")
    assert mask_secrets("Swordfish1 Swordfish2 Swordfish3") == "${A_TOKEN} Swordfish2 Swordfish3"
    searches = secret_values._known_masks.cache_info().misses
    assert mask_secrets("Swordfish1") == "${A_TOKEN}"
    assert secret_values._known_masks.cache_info().misses == searches
    monkeypatch.setenv("A_TOKEN", "Swordfish2")
    (tmp_path / "token").write_text("Swordfish3")
    assert mask_secrets("Swordfish1 Swordfish2 Swordfish3") == "Swordfish1 ${A_TOKEN} [redacted]"
