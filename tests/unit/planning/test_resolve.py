"""A plan has every value decided, and each decided value has its reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from orpo_cli.errors import UsageError
from orpo_cli.machine import Machine
from orpo_cli.planning.checks import plan_problems
from orpo_cli.planning.model_facts import ModelFacts
from orpo_cli.planning.plan import Plan, PlanDraft
from orpo_cli.planning.resolve import draft_plan, resolve
from orpo_cli.recipe.load import load_recipe

CPU = Machine("cpu", "a processor", 1, None, 8 << 30, 2, False, False, 1 << 40, "3.11", "Linux")
H100 = replace(CPU, device="cuda", device_name="H100", device_memory_bytes=80 << 30, bf16=True)
T4 = replace(H100, device_name="T4", bf16=False)
SMALL = ModelFacts("llama", 135_000_000, True, 8192)


def plan(folder: Path, machine: Machine = CPU, facts: ModelFacts | None = SMALL, **sections: Any) -> Plan:
    recipe = {"model": {"model_name_or_path": "a/b"}, "dataset": {"train": {"path": "x.jsonl"}}, **sections}
    (folder / "r.yaml").write_text(json.dumps(recipe))
    return resolve(load_recipe(str(folder / "r.yaml")), machine, facts)


def leaves(value: Any) -> list[dict[str, Any]]:
    if set(value) == {"value", "origin", "reason"}:
        return [value]
    return [leaf for inner in value.values() for leaf in leaves(inner)]


@pytest.mark.parametrize("machine", [CPU, H100, T4], ids=lambda machine: machine.device_name)
@pytest.mark.parametrize("lora", [{}, {"lora": {}}], ids=["full", "lora"])
def test_no_auto_is_left_and_every_value_has_a_reason(tmp_path: Path, machine: Machine, lora: dict[str, Any]) -> None:
    for leaf in leaves(plan(tmp_path, machine, **lora).to_document()):
        assert leaf["value"] != "auto"
        assert leaf["reason"]
        assert leaf["origin"] in ("recipe", "override", "default", "decided")


def test_a_plan_reads_back_as_it_was_written(tmp_path: Path) -> None:
    made = plan(tmp_path, H100, lora={"rank_pattern": {"q_proj": 4}}, quantization={"load_in_4bit": True})
    assert Plan.from_document(json.loads(made.to_json())) == made


def test_a_plan_of_version_0_1_0_is_read(tmp_path: Path) -> None:
    """It had no export.dtype, which is that of the merged model."""
    document = json.loads((Path(__file__).parent / "plan_0.1.0.json").read_text())
    assert "dtype" not in document["export"]
    old = Plan.from_document(document)
    assert (old.export.dtype, old.dataset.max_prompt_length, old.launch.num_processes) == ("float32", 1024, 1)
    document["lora"] = {"value": None, "origin": "default", "reason": "default"}
    document["model"]["dtype"]["value"] = "bfloat16"
    assert Plan.from_document(document).export.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("model", "dtype"), ("model", "attn_implementation"), ("quantization", "bnb_4bit_compute_dtype"), ("merge", "dtype"),
        ("export", "dtype"), ("launch", "num_processes"), ("launch", "strategy"), ("engine", "fast_path"),
        ("engine", "max_tokens_per_microbatch"),
    ],
)  # fmt: skip
def test_a_plan_with_auto_is_not_valid(tmp_path: Path, section: str, name: str) -> None:
    document = json.loads(plan(tmp_path, H100, lora={}, quantization={"load_in_4bit": True}).to_json())
    document[section][name]["value"] = "auto"
    with pytest.raises(ValidationError, match=name):
        Plan.from_document(document)


def test_a_plan_needs_the_longest_prompt(tmp_path: Path) -> None:
    document = json.loads(plan(tmp_path).to_json())
    document["dataset"]["max_prompt_length"]["value"] = None
    with pytest.raises(ValidationError, match="max_prompt_length"):
        Plan.from_document(document)


def test_a_plan_cannot_be_changed(tmp_path: Path) -> None:
    made = plan(tmp_path)
    for section in (made, made.model, made.engine, made.launch):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, next(iter(type(section).model_fields)), None)


def test_a_draft_leaves_to_the_memory_estimate_what_the_recipe_does_not_set(tmp_path: Path) -> None:
    def draft(**sections: Any) -> PlanDraft:
        plan(tmp_path, **sections)
        return draft_plan(load_recipe(str(tmp_path / "r.yaml")), CPU, SMALL)

    both = {"training.gradient_checkpointing", "engine.max_tokens_per_microbatch"}
    assert draft().undecided() == both
    assert not both & draft().why.keys()
    assert draft(training={"gradient_checkpointing": False}).undecided() == {"engine.max_tokens_per_microbatch"}
    assert draft(engine={"max_tokens_per_microbatch": 64}).undecided() == {"training.gradient_checkpointing"}
    assert draft(engine={"fast_path": "off"}).undecided() == {"training.gradient_checkpointing"}
    made = plan(tmp_path)
    assert (made.training["gradient_checkpointing"], made.engine.max_tokens_per_microbatch) == (False, 2048)
    assert both <= {path for path, why in made.why.items() if why.origin == "decided"}


def test_the_plan_decides_whether_steps_are_packed(tmp_path: Path) -> None:
    def engine(facts: ModelFacts | None = SMALL, **lora: Any) -> tuple[str, str]:
        made = plan(tmp_path, facts=facts, lora=lora)
        return made.engine.fast_path, made.why["engine.fast_path"].reason

    assert engine()[0] == engine(None)[0] == "on"
    assert engine(replace(SMALL, not_packable="it has a state")) == ("off", "trl's own path: it has a state")
    replicated = engine(layer_replication=[[0, 2], [0, 2]])
    assert replicated == ("off", "trl's own path: lora.layer_replication lets layers share one attention")
    with pytest.raises(UsageError, match="required, but it has a state"):
        plan(tmp_path, facts=replace(SMALL, not_packable="it has a state"), engine={"fast_path": "required"})


def test_learning_rate_and_beta_follow_size_and_method(tmp_path: Path) -> None:
    small, large = SMALL, replace(SMALL, parameters=8_000_000_000)
    assert plan(tmp_path, lora={}).training["learning_rate"] == 1e-4
    assert plan(tmp_path).training["learning_rate"] == 1e-5
    assert plan(tmp_path, facts=large, lora={}).training["learning_rate"] == 5e-5
    assert (plan(tmp_path, facts=small).training["beta"], plan(tmp_path, facts=large).training["beta"]) == (0.25, 0.1)
    assert "135M" in plan(tmp_path).why["training.beta"].reason


def test_precision_follows_the_device(tmp_path: Path) -> None:
    def precision(machine: Machine, **more: Any) -> tuple[str, bool, bool]:
        made = plan(tmp_path, machine, **more)
        return made.model.dtype, made.training["bf16"], made.training["fp16"]

    assert precision(CPU, lora={}) == ("float32", False, False)
    assert precision(H100, lora={}) == ("bfloat16", True, False)
    assert precision(H100) == ("float32", True, False)
    assert precision(T4, lora={}) == ("float16", False, True)
    assert precision(H100, lora={}, training={"use_cpu": True}) == ("float32", False, False)


def test_a_step_has_32_pairs_unless_the_recipe_sets_another_number(tmp_path: Path) -> None:
    made = plan(tmp_path, training={"per_device_train_batch_size": 2})
    assert made.training["gradient_accumulation_steps"] == 16
    made = plan(tmp_path, training={"gradient_accumulation_steps": 3})
    assert made.training["gradient_accumulation_steps"] == 3
    assert made.why["training.gradient_accumulation_steps"].origin == "recipe"


def test_an_8_bit_optimizer_without_cuda_is_replaced_by_adamw_torch_with_the_reason(tmp_path: Path) -> None:
    made = plan(tmp_path, training={"optim": "paged_adamw_8bit"})
    assert made.training["optim"] == "adamw_torch"
    assert "paged_adamw_8bit is made for CUDA GPUs" in made.why["training.optim"].reason
    assert plan(tmp_path, H100, training={"optim": "paged_adamw_8bit"}).training["optim"] == "paged_adamw_8bit"


def test_lora_dropout_stays_active(tmp_path: Path) -> None:
    assert plan(tmp_path, lora={"lora_dropout": 0.05}).training["disable_dropout"] is False
    assert "disable_dropout" not in plan(tmp_path, lora={}).training


def test_held_out_pairs_are_evaluated_and_the_best_checkpoint_kept(tmp_path: Path) -> None:
    dataset = {"train": {"path": "x.jsonl"}, "eval": {"test_size": 0.1}}
    made = plan(tmp_path, dataset=dataset).training
    assert (made["eval_strategy"], made["save_strategy"], made["load_best_model_at_end"]) == ("epoch", "epoch", True)
    assert "load_best_model_at_end" not in plan(tmp_path, dataset=dataset, training={"eval_strategy": "no"}).training
    assert plan(tmp_path).training["eval_strategy"] == "no"


def test_a_length_beyond_the_models_positions_is_not_chosen(tmp_path: Path) -> None:
    made = plan(tmp_path, facts=replace(SMALL, max_position_embeddings=512))
    assert (made.training["max_length"], made.dataset.max_prompt_length) == (512, 256)


def test_a_prompt_longer_than_the_decided_length_is_an_error(tmp_path: Path) -> None:
    made = plan(tmp_path, dataset={"train": {"path": "x"}, "max_prompt_length": 4096})
    (problem,) = plan_problems(made, load_recipe(str(tmp_path / "r.yaml")), SMALL)
    assert problem.severity == "error"
    assert "no tokens for a completion" in problem.text()


def test_paths_relative_to_the_recipe_have_precedence_over_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.jsonl").write_text("")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x.jsonl").write_text("")
    (elsewhere / "y.jsonl").write_text("")
    monkeypatch.chdir(elsewhere)
    made = plan(tmp_path, dataset={"train": [{"path": "x.jsonl"}, {"path": "y.jsonl"}, {"path": "hub/name"}]})
    assert [source.path for source in made.dataset.train] == [
        str(tmp_path / "x.jsonl"),
        str(elsewhere / "y.jsonl"),
        "hub/name",
    ]


def test_a_backend_for_several_processes_is_removed_with_the_reason(tmp_path: Path) -> None:
    made = plan(tmp_path, training={"ddp_backend": "gloo"})
    assert made.training["ddp_backend"] is None
    assert made.why["training.ddp_backend"].origin == "decided"


def test_activation_checkpointing_and_gradient_checkpointing_do_not_conflict(tmp_path: Path) -> None:
    made = plan(tmp_path, H100, training={"activation_checkpointing": False})
    assert "gradient_checkpointing" not in made.training


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"eval_steps": 20}, {"eval_strategy": "steps", "eval_steps": 20, "save_strategy": "epoch"}),
        ({"save_steps": 20}, {"eval_strategy": "epoch", "save_strategy": "steps", "save_steps": 20}),
        ({"eval_strategy": "steps"}, {"eval_steps": 0.1}),  # the library would evaluate at every logged step
        ({"eval_strategy": "steps", "logging_steps": 5}, {"eval_steps": 5}),
        (
            {"eval_steps": 20, "load_best_model_at_end": True},
            {"eval_strategy": "steps", "save_strategy": "steps", "save_steps": 20},
        ),
        ({"load_best_model_at_end": True}, {"eval_strategy": "epoch", "save_strategy": "epoch"}),
        ({"save_strategy": "best"}, {"eval_strategy": "epoch", "metric_for_best_model": "loss"}),
    ],
)
def test_eval_steps_and_save_steps_imply_the_strategy_steps(
    tmp_path: Path, training: dict[str, Any], expected: dict[str, Any]
) -> None:
    dataset = {"train": {"path": "x.jsonl"}, "eval": {"test_size": 0.1}}
    made = plan(tmp_path, dataset=dataset, training=training).training
    assert {name: made[name] for name in expected} == expected


def test_a_schedule_without_warmup_gets_no_warmup_steps(tmp_path: Path) -> None:
    assert "warmup_steps" not in plan(tmp_path, training={"lr_scheduler_type": "constant"}).training
    assert plan(tmp_path, training={"lr_scheduler_type": "linear"}).training["warmup_steps"] == 0.1


def test_the_plan_notes_that_max_steps_makes_num_train_epochs_ineffective(tmp_path: Path) -> None:
    made = plan(tmp_path, training={"max_steps": 20, "num_train_epochs": 3})
    assert "max_steps = 20 ends the run" in made.why["training.num_train_epochs"].reason
    assert plan(tmp_path, training={"max_steps": -1}).training["num_train_epochs"] == 3.0


def test_a_layer_wise_optimizer_gets_no_gradient_accumulation(tmp_path: Path) -> None:
    training = {"optim": "galore_adamw_layerwise", "optim_target_modules": "all-linear"}
    assert plan(tmp_path, H100, training=training).training["gradient_accumulation_steps"] == 1
