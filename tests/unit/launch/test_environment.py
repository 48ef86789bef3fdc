"""Environment of a rank: its place in the job, from the variables of each launcher, and the variables of a plan."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from orpo_cli.errors import UsageError
from orpo_cli.launch.command import machine_commands, worker_command
from orpo_cli.launch.environment import Ranks, apply_plan, refuse_other_launch, worker_variables
from orpo_cli.planning.plan import LaunchPlan

TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1", "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
}  # fmt: skip
SRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "1",
    "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500",
}  # fmt: skip
NAMES = {*TORCHRUN, *SRUN, "ORPO_LAUNCHED"}


def ranks_of(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> Ranks | None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Ranks.from_environment()


def launch(**changes: object) -> LaunchPlan:
    return LaunchPlan(**{"num_processes": 4, "strategy": "ddp", "pairs_per_step": 32, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("variables", [TORCHRUN, SRUN])
def test_torchrun_and_srun_say_the_place_of_a_rank(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    assert ranks_of(monkeypatch, variables) == Ranks(3, 4, 1, 2, 1, "10.0.0.1", 29500)


def test_one_process_is_no_rank_unless_orpo_has_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ranks_of(monkeypatch, {}) is None
    alone = {**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    assert ranks_of(monkeypatch, alone) is None
    found = ranks_of(monkeypatch, {**alone, "ORPO_LAUNCHED": "1"})
    assert found is not None
    assert found.launched


def test_world_size_alone_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="WORLD_SIZE is 4, but RANK is not set"):
        ranks_of(monkeypatch, {"WORLD_SIZE": "4"})


def test_another_launcher_must_start_what_the_recipe_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = ranks_of(monkeypatch, TORCHRUN)
    assert ranks is not None
    refuse_other_launch(launch(), ranks)
    with pytest.raises(UsageError, match=r"launch\.num_processes is 2, but 4 processes were started"):
        refuse_other_launch(launch(num_processes=2), ranks)
    with pytest.raises(UsageError, match="another launcher has started processes on 2 machines"):
        refuse_other_launch(launch(), replace(ranks, machines=2))
    with pytest.raises(UsageError, match=r"launch\.strategy is single"):
        refuse_other_launch(launch(strategy="single"), ranks)


def test_a_rank_obeys_the_plan_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"ACCELERATE_MIXED_PRECISION": "fp16", "FSDP_VERSION": "1", "HOME": "/"})
    apply_plan(launch(num_cpu_threads_per_process=3, gpu_ids="0,2", enable_cpu_affinity=True), launched=False)
    assert os.environ == {
        "HOME": "/", "OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "0,2", "ACCELERATE_CPU_AFFINITY": "1",
    }  # fmt: skip
    apply_plan(launch(gpu_ids="3", enable_cpu_affinity=True), launched=True)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,2"  # of its machine
    assert os.environ["ACCELERATE_CPU_AFFINITY"] == "1"
    assert worker_variables(launch())["OMP_NUM_THREADS"] == "1"


def test_the_commands_of_a_dry_run() -> None:
    arguments = ["train", "r.yaml", "--dry-run", "--set", "output_dir=my run"]
    assert worker_command(arguments)[1:] == ["-m", "orpo_cli", "train", "r.yaml", "--set", "output_dir=my run"]
    (single,) = machine_commands(launch(num_processes=1, strategy="single"), arguments)
    assert (single.environment, single.command) == ({}, worker_command(arguments))
    (one,) = machine_commands(launch(gpu_ids="0,1,2,3"), arguments)
    assert one.text().startswith("OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=0,1,2,3 ")
    assert "--standalone --nproc-per-node=4" in one.text()
    assert one.text().endswith("--module orpo_cli train r.yaml --set 'output_dir=my run'")
    two = machine_commands(launch(num_machines=2, main_process_ip="10.0.0.1", main_process_port=5), arguments)
    assert [each.machine_rank for each in two] == [0, 1]
    assert two[1].command[-2:] == ["--set", "launch.machine_rank=1"]
