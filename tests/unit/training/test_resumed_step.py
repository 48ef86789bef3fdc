"""The step of a resumed run: the same pairs on another number of processes, and no other change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orpo_cli.errors import UsageError
from orpo_cli.machine import Machine
from orpo_cli.planning.plan import Plan
from orpo_cli.planning.resolve import resolve
from orpo_cli.recipe.load import load_recipe
from orpo_cli.training.resume import _refuse_changes
from orpo_cli.training.resumed_step import keep_pairs_per_step

MACHINE = Machine("cpu", "a processor", 1, None, 8 << 30, 8, False, False, 1 << 40, "3.11", "Linux")


def plan(folder: Path, processes: int | str, batch: int = 4, accumulation: int = 2, **training: Any) -> Plan:
    recipe = {
        "model": {"model_name_or_path": "a/b"},
        "dataset": {"train": {"path": "x.jsonl"}},
        "training": {
            "per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, "use_cpu": True, **training
        },
        "launch": {"num_processes": processes},
    }  # fmt: skip
    (folder / "r.yaml").write_text(json.dumps(recipe))
    return resolve(load_recipe(str(folder / "r.yaml")), MACHINE)


class Run:
    """What ``_refuse_changes`` needs of a run directory."""

    root = Path("run")


def resumed(before: Plan, now: Plan) -> Plan:
    now = keep_pairs_per_step(before, now)
    _refuse_changes(before, now, Run())  # type: ignore[arg-type]
    return now


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 4), (2, 2), (3, 2), (4, 1), ("auto", 4)])
def test_a_run_of_two_processes_keeps_its_pairs_per_step(tmp_path: Path, processes: int, accumulation: int) -> None:
    now = resumed(plan(tmp_path, 2), plan(tmp_path, processes))
    assert now.launch.pairs_per_step == 16
    assert now.training["gradient_accumulation_steps"] == accumulation
    again = resumed(now, plan(tmp_path, processes))
    assert (again.launch.pairs_per_step, again.training["gradient_accumulation_steps"]) == (16, accumulation)
    back = resumed(now, plan(tmp_path, 2))
    assert (back.launch.pairs_per_step, back.training["gradient_accumulation_steps"]) == (16, 2)


def test_the_recipe_of_another_step_is_refused(tmp_path: Path) -> None:
    before = plan(tmp_path, 2)
    for now in (plan(tmp_path, 2, accumulation=4), plan(tmp_path, 1, accumulation=8), plan(tmp_path, 4, batch=8)):
        with pytest.raises(UsageError, match=r"launch\.pairs_per_step: 16 → \d+"):
            resumed(before, now)
    assert resumed(before, plan(tmp_path, 1, accumulation=4)).launch.pairs_per_step == 16  # written in another way


def test_pairs_grouped_by_length_have_another_order_in_one_process(tmp_path: Path) -> None:
    before, now = (plan(tmp_path, number, train_sampling_strategy="group_by_length") for number in (2, 1))
    with pytest.raises(UsageError, match=r"launch.num_processes: 2 → 1 \(train_sampling_strategy: group_by_length"):
        resumed(before, now)
    other = plan(tmp_path, 4, train_sampling_strategy="group_by_length")
    assert resumed(before, other).launch.pairs_per_step == 16
