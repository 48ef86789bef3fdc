"""ORPOConfig as printed by trl 0.8 and transformers 4.40 in April 2024: none of its 133 arguments is lost."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from orpo_cli.recipe.legacy.migration import migrate_training_args
from orpo_cli.recipe.legacy.renamed_args import RENAMED_ARGS
from orpo_cli.recipe.legacy.unsupported_training_args import UNSUPPORTED_TRAINING_ARGS
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.schema.training_fields import TrainingFields

PRINTED = Path(__file__).parent / "convert" / "april-2024.txt"
# Printed values of arguments that were not set.
DEFAULTS = {
    "do_eval": False, "eval_steps": None, "evaluation_strategy": "no", "gradient_accumulation_steps": 1, "learning_rate": 5e-05,
    "logging_steps": 500, "max_length": None, "max_prompt_length": None, "num_train_epochs": 3.0, "optim": "adamw_torch",
    "per_device_eval_batch_size": 8, "per_device_train_batch_size": 8, "report_to": ["tensorboard"], "warmup_steps": 0,
}  # fmt: skip


def printed_arguments() -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, text in re.findall(r"^(\w+)=(.*),$", PRINTED.read_text(), re.MULTILINE):
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[name] = text
    return values


def test_all_133_arguments_are_known_and_34_are_renamed() -> None:
    names = set(printed_arguments())
    assert len(names) == 133
    assert names <= {*TrainingFields.model_fields, *RENAMED_ARGS, *UNSUPPORTED_TRAINING_ARGS}
    assert len(names & set(RENAMED_ARGS)) == len(RENAMED_ARGS) == 34
    assert not set(RENAMED_ARGS) & {*TrainingFields.model_fields, *UNSUPPORTED_TRAINING_ARGS}


@pytest.mark.parametrize("changes", [{}, DEFAULTS], ids=["notebook", "defaults"])
def test_each_argument_stays_or_has_a_problem_reported(changes: dict[str, Any]) -> None:
    before = {**printed_arguments(), **changes}
    migration = migrate_training_args(before)
    assert [problem.text() for problem in migration.problems if problem.severity == "error"] == []
    reported = {problem.path.removeprefix("training.") for problem in migration.problems}
    unchanged = {name for name in before if name in migration.training and migration.training[name] == before[name]}
    assert unchanged | reported == set(before)
    assert not unchanged & reported
    assert reported == set(before) & {*RENAMED_ARGS, *UNSUPPORTED_TRAINING_ARGS}


@pytest.mark.parametrize("changes", [{}, DEFAULTS], ids=["notebook", "defaults"])
def test_the_arguments_are_valid_as_the_training_section_of_a_recipe(changes: dict[str, Any], tmp_path: Path) -> None:
    dataset = {"train": {"path": "x"}, "eval": {"test_size": 0.1}}
    training = {**printed_arguments(), **changes}
    recipe = {"model": {"model_name_or_path": "a/b"}, "dataset": dataset, "training": training}
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    loaded = load_recipe(str(tmp_path / "r.yaml")).recipe
    assert loaded.output_dir == "./results/"
    assert loaded.dataset.max_prompt_length == training["max_prompt_length"]
    assert loaded.training.eval_strategy == training["evaluation_strategy"]
    assert loaded.training.learning_rate == training["learning_rate"]
    assert loaded.hub.private is True
