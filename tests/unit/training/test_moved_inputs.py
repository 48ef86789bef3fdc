"""Inputs at another path: followed only where a fingerprint of their content is compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.tiny_run import make_plan

from orpo_cli.planning.plan import Plan
from orpo_cli.recipe.schema import Source
from orpo_cli.training.moved_inputs import follow_moves

PAIRS = {"pairs": 3, "digest": "d"}
COMPLETE = {"data": {"sources": {}, "train": PAIRS}, "tokenizer": "t", "chat_template": "c", "weights": {"w": "d"}}


def plan_at(place: str) -> Plan:
    plan = make_plan(Path("/run"), f"{place}/base")
    return plan.model_copy(
        update={"dataset": plan.dataset.model_copy(update={"train": [Source(path=f"{place}/train.jsonl")]})}
    )


@pytest.mark.parametrize(
    ("lost", "followed"),
    [
        ({}, ["model", "dataset"]),
        ({"data": {"sources": {}}}, ["model"]),
        ({"data": {}}, ["model"]),
        ({"weights": {}}, ["dataset"]),
        ({"tokenizer": None}, ["dataset"]),
    ],
)
def test_a_path_is_followed_where_its_content_is_compared(lost: dict[str, Any], followed: list[str]) -> None:
    plan, moved = follow_moves(plan_at("/old"), plan_at("/new"), {**COMPLETE, **lost})
    assert [line.split(".")[0].split("[")[0] for line in moved] == followed
    assert plan.model.model_name_or_path == ("/new/base" if "model" in followed else "/old/base")
    assert plan.dataset.train[0].path == ("/new/train.jsonl" if "dataset" in followed else "/old/train.jsonl")
