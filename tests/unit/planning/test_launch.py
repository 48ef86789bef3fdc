"""Launch of a plan: processes, the step that they share, strategy, and what this machine needs for it."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from orpo_cli.errors import UsageError
from orpo_cli.machine import Machine
from orpo_cli.planning.checks import plan_problems
from orpo_cli.planning.launch import is_other_machine
from orpo_cli.planning.plan import Plan
from orpo_cli.planning.requirements import missing_requirements
from orpo_cli.planning.resolve import resolve
from orpo_cli.planning.smoke_plan import smoke_plan
from orpo_cli.recipe.load import LoadedRecipe, load_recipe
from orpo_cli.recipe.schema import LaunchSection

CPU = Machine("cpu", "a processor", 1, None, 8 << 30, 8, False, False, 1 << 40, "3.11", "Linux")
GPUS = replace(CPU, device="cuda", device_name="H100", device_count=8, device_memory_bytes=80 << 30, bf16=True)
STEP = ("per_device_train_batch_size", "gradient_accumulation_steps")
PLACE = ("SLURM_PROCID", "MASTER_ADDR", "MASTER_PORT", "SLURM_LAUNCH_NODE_IPADDR")


def load(folder: Path, **sections: Any) -> LoadedRecipe:
    recipe = {"model": {"model_name_or_path": "a/b"}, "dataset": {"train": {"path": "x.jsonl"}}, **sections}
    (folder / "r.yaml").write_text(json.dumps(recipe))
    return load_recipe(str(folder / "r.yaml"))


def plan(folder: Path, machine: Machine = GPUS, **sections: Any) -> Plan:
    return resolve(load(folder, **sections), machine)


def codes(made: Plan, machine: Machine = GPUS) -> list[str]:
    return [problem.code for problem in missing_requirements(made, machine)]


@pytest.mark.parametrize(
    ("launch", "training", "processes", "accumulation", "pairs"),
    [
        ({}, {}, 8, 1, 32),
        ({}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 16}, 8, 2, 32),
        ({}, {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}, 8, 1, 8),
        ({"num_machines": 2}, {"per_device_train_batch_size": 1}, 16, 2, 32),
        ({"gpu_ids": "0,3,5"}, {}, 3, 3, 32),
        ({"num_processes": 3}, {}, 3, 3, 32),
        ({"num_processes": 1}, {}, 1, 8, 32),
        ({"strategy": "single"}, {}, 1, 8, 32),
        ({"num_processes": 4}, {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}, 4, 1, 32),
        ({"num_processes": 4}, {"gradient_accumulation_steps": 2}, 4, 2, 32),
        ({"num_processes": 2}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 16}, 2, 16, 64),
    ],
)
def test_auto_keeps_the_pairs_of_a_step_and_a_written_number_multiplies_them(
    tmp_path: Path, launch: dict[str, Any], training: dict[str, Any], processes: int, accumulation: int, pairs: int
) -> None:
    made = plan(tmp_path, launch=launch, training={**training, "max_steps": 10})
    assert (made.launch.num_processes, made.launch.pairs_per_step) == (processes, pairs)
    assert made.training["gradient_accumulation_steps"] == accumulation
    assert made.total_pairs() == 10 * pairs
    assert [problem.code for problem in plan_problems(made, load_recipe(str(tmp_path / "r.yaml")), None)] == []
    assert Plan.from_document(json.loads(made.to_json())) == made


def test_the_reason_has_the_accumulation_as_written(tmp_path: Path) -> None:
    made = plan(tmp_path, training=dict(zip(STEP, (2, 16), strict=True)))
    why = made.why["training.gradient_accumulation_steps"]
    assert (why.origin, why.reason) == ("decided", "2 × 16 = 32 pairs a step, shared by 8 processes")


@pytest.mark.parametrize(
    ("launch", "strategy", "missing"),
    [
        ({}, "ddp", []),
        ({"num_processes": 1}, "single", []),
        ({"strategy": "single"}, "single", []),
        ({"fsdp_config": {}}, "fsdp", []),
        ({"strategy": "fsdp", "num_processes": 1}, "fsdp", []),
        (
            {"deepspeed_config": {"zero_optimization": {"stage": 3}}},
            "deepspeed",
            [] if find_spec("deepspeed") else ["package-missing"],
        ),
        ({"num_processes": 16}, "ddp", ["too-few-devices"]),
        ({"num_processes": 16, "num_machines": 2}, "ddp", ["machine-unknown", "machine-unknown"]),
        ({"num_processes": 2, "gpu_ids": "0"}, "ddp", ["too-few-devices"]),
    ],
)
def test_strategy_and_requirements(
    tmp_path: Path, launch: dict[str, Any], strategy: str, missing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PLACE:
        monkeypatch.delenv(name, raising=False)
    made = plan(tmp_path, launch=launch)
    assert made.launch.strategy == strategy
    assert codes(made) == missing


def test_processes_on_cpus_need_use_cpu(tmp_path: Path) -> None:
    assert codes(plan(tmp_path, CPU, launch={"num_processes": 2}), CPU) == ["too-few-devices"]
    made = plan(tmp_path, CPU, launch={"num_processes": 2}, training={"use_cpu": True})
    assert codes(made, CPU) == []
    assert (made.launch.num_cpu_threads_per_process, made.launch.strategy) == (4, "ddp")
    assert plan(tmp_path, CPU).launch.num_cpu_threads_per_process is None


@pytest.mark.parametrize(
    ("training", "paths"),
    [
        ({"train_sampling_strategy": "batch_rebalance"}, ["training.train_sampling_strategy"]),
        ({"accelerator_config": {"split_batches": True}}, ["training.accelerator_config.split_batches"]),
        ({"train_sampling_strategy": "group_by_length", "accelerator_config": {"even_batches": True}}, []),
    ],
)
def test_other_distributions_of_pairs_are_refused_with_several_processes(
    tmp_path: Path, training: dict[str, Any], paths: list[str]
) -> None:
    several = plan(tmp_path, launch={"num_processes": 2}, training=training)
    found = list(missing_requirements(several, GPUS))
    assert [problem.path for problem in found] == paths
    assert {problem.code for problem in found} <= {"distributed-sampling"}
    assert codes(plan(tmp_path, launch={"num_processes": 1}, training=training)) == []


@pytest.mark.parametrize("optimizer", ["lomo", "adalomo", "galore_adamw_layerwise"])
def test_an_optimizer_that_steps_in_the_backward_pass_has_one_process(tmp_path: Path, optimizer: str) -> None:
    training = {"optim": optimizer, **({"optim_target_modules": ["q_proj"]} if "galore" in optimizer else {})}
    alone = plan(tmp_path, training=training).launch
    assert (alone.num_processes, alone.strategy) == (1, "single")
    assert "optimizer-processes" in codes(plan(tmp_path, launch={"num_processes": 2}, training=training))


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"model_name_or_path": "a/b", "device_map": "auto"}},
        {"training": {"train_sampling_strategy": "batch_rebalance"}},
        {"training": {"accelerator_config": {"split_batches": True}}},
    ],
)
def test_auto_is_one_process_where_several_are_excluded(tmp_path: Path, sections: dict[str, Any]) -> None:
    made = plan(tmp_path, **sections)
    assert (made.launch.num_processes, codes(made)) == (1, [])
    assert made.why["launch.num_processes"].origin == "decided"


def test_the_reason_of_the_step_is_the_default_where_accumulation_is_not_written(tmp_path: Path) -> None:
    made = plan(tmp_path, launch={"num_processes": 3}, training={"per_device_train_batch_size": 2})
    assert (made.launch.pairs_per_step, made.training["gradient_accumulation_steps"]) == (32, 6)
    assert made.why["launch.pairs_per_step"].reason == "the default; gradient_accumulation_steps is not set"


@pytest.mark.skipif(find_spec("deepspeed") is not None, reason="deepspeed is installed")
def test_deepspeed_is_an_extra(tmp_path: Path) -> None:
    (problem,) = missing_requirements(plan(tmp_path, launch={"strategy": "deepspeed"}), GPUS)
    assert problem.path == "launch.strategy"
    assert "pip install 'orpo-cli[deepspeed]', or --set launch.strategy=fsdp --set launch.deepspeed_config=null" in str(
        problem.remedy
    )


def test_a_launcher_decides_the_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    made = plan(tmp_path, CPU, training={"use_cpu": True})
    assert (made.launch.num_processes, made.launch.strategy, made.launch.pairs_per_step) == (4, "ddp", 32)
    assert plan(tmp_path, launch={"num_processes": 2}).launch.num_processes == 2


@pytest.mark.parametrize(
    ("launch", "slurm", "expected"),
    [
        ({}, "1", False),
        ({"num_machines": 2}, None, False),
        ({"num_machines": 2}, "1", True),
        ({"num_machines": 2}, "0", False),
        ({"num_machines": 2, "machine_rank": 1}, "0", True),
        ({"num_machines": 2, "machine_rank": 0}, "1", False),
    ],
)
def test_the_first_of_several_machines_opens_the_run(
    launch: dict[str, Any], slurm: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    if slurm is not None:
        monkeypatch.setenv("SLURM_PROCID", slurm)
    assert is_other_machine(LaunchSection(**launch)) == expected


def test_settings_of_several_processes_have_no_effect_if_auto_is_one(tmp_path: Path) -> None:
    loaded = load(tmp_path, launch={"gpu_ids": "0,1", "monitor_interval": 5.0})
    found = plan_problems(resolve(loaded, CPU), loaded, None)
    assert {(each.code, each.path, each.severity) for each in found} == {
        ("launch-settings-unused", f"launch.{name}", "warning") for name in ("gpu_ids", "monitor_interval")
    }
    assert plan_problems(resolve(loaded, GPUS), loaded, None) == []
    written = load(tmp_path, launch={"num_processes": 1, "gpu_ids": "0,1"})
    assert plan_problems(resolve(written, GPUS), written, None) == []  # the recipe has this warning already


def test_a_machine_of_a_slurm_job_knows_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(PLACE, ("3", "10.0.0.7", "1234", "10.0.0.8"), strict=True):
        monkeypatch.setenv(name, value)
    launch = plan(tmp_path, launch={"num_processes": 32, "num_machines": 4}).launch
    assert (launch.machine_rank, launch.main_process_ip, launch.main_process_port) == (3, "10.0.0.7", 1234)
    launch = plan(tmp_path).launch
    assert (launch.machine_rank, launch.main_process_ip, launch.main_process_port) == (0, "127.0.0.1", 0)
    written = {"machine_rank": 1, "main_process_ip": "10.0.0.1", "main_process_port": 5}
    launch = plan(tmp_path, launch={"num_processes": 32, "num_machines": 4, **written}).launch
    assert {name: getattr(launch, name) for name in written} == written


def test_the_plan_has_the_content_of_a_deepspeed_file(tmp_path: Path) -> None:
    file, launch = tmp_path / "ds.json", {"deepspeed_config": "ds.json"}
    with pytest.raises(UsageError, match=r"launch.deepspeed_config: ds.json is not a file in"):
        plan(tmp_path, launch=launch)
    file.write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        plan(tmp_path, launch=launch)
    file.write_text("[]")
    with pytest.raises(UsageError, match="has no JSON object"):
        plan(tmp_path, launch=launch)
    content = {"zero_optimization": {"stage": 3}, "gradient_clipping": 1.0}
    file.write_text(json.dumps(content))
    made = plan(tmp_path, launch=launch)
    assert made.launch.deepspeed_config == content
    assert made.why["launch.deepspeed_config"].reason == "read from ds.json"
    assert Plan.from_document(json.loads(made.to_json())) == made
    (problem,) = plan_problems(made, load(tmp_path, launch=launch), None)
    assert (problem.code, problem.path) == ("deepspeed-config", "launch.deepspeed_config")
    assert "in ds.json: `gradient_clipping`" in problem.message


def test_without_a_configuration_deepspeed_is_zero_2(tmp_path: Path) -> None:
    made = plan(tmp_path, launch={"strategy": "deepspeed"})
    assert made.launch.deepspeed_config == {"zero_optimization": {"stage": 2}}


def test_checkpointing_of_fsdp_is_gradient_checkpointing(tmp_path: Path) -> None:
    made = plan(tmp_path, launch={"fsdp_config": {"activation_checkpointing": True}})
    assert made.training["gradient_checkpointing"] is True
    assert made.why["training.gradient_checkpointing"].reason == "launch.fsdp_config.activation_checkpointing"


def test_a_smoke_run_has_one_process_on_one_machine(tmp_path: Path) -> None:
    made = plan(tmp_path, launch={"num_processes": 4, "num_machines": 2, "strategy": "fsdp"})
    small = smoke_plan(made, base=tmp_path, layers=2, modules=None, pairs=None, output_dir=tmp_path / "out").launch
    assert (small.num_processes, small.num_machines, small.strategy) == (1, 1, "single")
    assert small.pairs_per_step == 2 * 2
