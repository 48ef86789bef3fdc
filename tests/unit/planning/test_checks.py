"""Problems of a plan: unusual values, replaced values, and requirements that the machine does not meet."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orpo_cli.errors import Problem
from orpo_cli.machine import Machine
from orpo_cli.planning.checks import plan_problems
from orpo_cli.planning.model_facts import ModelFacts
from orpo_cli.planning.plan import Plan
from orpo_cli.planning.requirements import missing_requirements
from orpo_cli.planning.resolve import resolve
from orpo_cli.recipe.load import LoadedRecipe, load_recipe

CPU = Machine("cpu", "a processor", 1, None, 8 << 30, 2, False, False, 1 << 40, "3.11", "Linux")
H100 = replace(CPU, device="cuda", device_name="H100", device_memory_bytes=80 << 30, bf16=True)
T4 = replace(H100, device_name="T4", bf16=False)
SMALL = ModelFacts("llama", 135_000_000, True, 8192)
LARGE = replace(SMALL, parameters=8_000_000_000)


def plan_of(folder: Path, machine: Machine, facts: ModelFacts | None, **sections: Any) -> tuple[Plan, LoadedRecipe]:
    recipe = {"model": {"model_name_or_path": "a/b"}, "dataset": {"train": {"path": "x.jsonl"}}, **sections}
    (folder / "r.yaml").write_text(json.dumps(recipe, indent=1))
    loaded = load_recipe(str(folder / "r.yaml"))
    return resolve(loaded, machine, facts), loaded


def problems(folder: Path, machine: Machine = H100, facts: ModelFacts | None = LARGE, **sections: Any) -> list[Problem]:
    plan, loaded = plan_of(folder, machine, facts, **sections)
    return plan_problems(plan, loaded, facts)


@pytest.mark.parametrize(
    ("facts", "lora", "rate", "fits"),
    [
        (LARGE, False, 5e-6, True),
        (LARGE, False, 2e-5, True),  # the most that the paper's authors advise
        (LARGE, False, 2e-4, False),  # LoRA's on every weight
        (LARGE, False, 1e-7, False),
        (LARGE, True, 8e-6, True),  # the widely used notebook's
        (LARGE, True, 1e-6, False),  # trl's default
        (LARGE, True, 5e-4, True),
        (LARGE, True, 1e-3, False),
        (SMALL, True, 1e-3, True),
        (SMALL, True, 5e-6, False),
        (SMALL, False, 1e-6, True),
        (None, False, 5e-6, True),  # of an unknown size: judged as 7B
    ],
)
def test_a_learning_rate_far_from_the_usual_one_for_method_and_size_is_a_warning(
    tmp_path: Path, facts: ModelFacts | None, lora: bool, rate: float, fits: bool
) -> None:
    sections: dict[str, Any] = {"training": {"learning_rate": rate}, **({"lora": {}} if lora else {})}
    found = problems(tmp_path, facts=facts, **sections)
    assert [each.code for each in found] == ([] if fits else ["unusual-learning-rate"])
    assert all(each.severity == "warning" and each.line == 11 and f"{rate:g}" in each.message for each in found)


def test_optimizers_with_other_learning_rates_cause_no_warning(tmp_path: Path) -> None:
    assert problems(tmp_path, training={"learning_rate": 0.1, "optim": "sgd"}) == []


def test_a_length_beyond_rotary_positions_is_a_warning_and_beyond_learned_ones_an_error(tmp_path: Path) -> None:
    long = {"max_length": 8193}
    (problem,) = problems(tmp_path, training=long)
    assert (problem.code, problem.severity, problem.line) == ("length-beyond-positions", "warning", 11)
    (problem,) = problems(tmp_path, facts=replace(LARGE, learned_positions=True), training=long)
    assert (problem.severity, problem.line) == ("error", 11)
    assert "has no position after token 8192" in problem.text()
    assert problems(tmp_path, training={"max_length": 8192}) == []


def test_learned_and_rotary_positions_are_distinguished() -> None:
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, GPTJConfig, LlamaConfig, OPTConfig

    from orpo_cli.model.model_facts import has_position_table

    with torch.device("meta"):
        models = [AutoModelForCausalLM.from_config(kind()) for kind in (GPT2Config, OPTConfig, GPTJConfig, LlamaConfig)]
    assert [has_position_table(model) for model in models] == [True, True, True, False]


@pytest.mark.parametrize(
    ("sections", "machine", "path", "text"),
    [
        ({"training": {"optim": "paged_adamw_8bit"}}, CPU, "training.optim", "adamw_torch instead of paged_adamw_8bit"),
        ({"training": {"tf32": True}}, T4, "training.tf32", "not given instead of True"),
        (
            {"model": {"model_name_or_path": "a/b", "attn_implementation": "flash_attention_2"}}, H100,
            "model.attn_implementation", "sdpa instead of flash_attention_2",
        ),
    ],
)  # fmt: skip
def test_a_value_that_the_machine_does_not_support_is_replaced_with_a_warning(
    tmp_path: Path, sections: dict[str, Any], machine: Machine, path: str, text: str
) -> None:
    (problem,) = problems(tmp_path, machine, **sections)
    assert (problem.code, problem.path, problem.severity) == ("value-replaced", path, "warning")
    assert text in problem.message
    assert problem.line is not None
    assert problems(tmp_path, replace(H100, flash_attention=True), **sections) == []


def test_a_value_that_the_recipe_does_not_set_causes_no_warning(tmp_path: Path) -> None:
    for machine in (CPU, T4, H100):
        for lora in ({}, {"lora": {}}):
            assert problems(tmp_path, machine, **lora) == []
            plan, _ = plan_of(tmp_path, machine, LARGE, **lora)
            assert list(missing_requirements(plan, machine)) == []


@pytest.mark.parametrize(
    ("training", "machine", "code"),
    [
        ({"bf16": True}, T4, "bf16-unsupported"),
        ({"bf16": True}, H100, None),
        ({"bf16": True}, CPU, None),  # slow, and right
        ({"fp16": True}, CPU, "fp16-needs-gpu"),
        ({"fp16": True}, T4, None),
        ({"optim": "stable_adamw"}, H100, "package-missing"),
        ({"report_to": ["neptune"]}, CPU, "package-missing"),
        ({"report_to": "all"}, CPU, None),
    ],
)
def test_a_requirement_that_the_machine_does_not_meet_is_a_problem(
    tmp_path: Path, training: dict[str, Any], machine: Machine, code: str | None
) -> None:
    plan, _ = plan_of(tmp_path, machine, LARGE, training=training)
    assert [each.code for each in missing_requirements(plan, machine)] == ([code] if code else [])


def test_a_revision_of_a_folder_is_an_error_once_the_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (problem,) = problems(tmp_path, model={"model_name_or_path": "a/b", "model_revision": "v1"})
    assert problem.severity == "error"
    assert "only models on the hub have revisions" in problem.text()
    assert problems(tmp_path, model={"model_name_or_path": "a/c", "model_revision": "v1"}) == []
