"""`orpo train` with weights sharded by FSDP2: the run of one process, which one process or more can continue."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from support.launched import assert_same_training, train, write_inputs, write_rank_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
FSDP = {"strategy": "fsdp"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of a training in one process, and of the same with FSDP2 in two processes and in one."""
    root = tmp_path_factory.mktemp("sharded")
    inputs = write_inputs(root)
    folders = {
        "single": write_rank_recipe(root / "single", inputs, 1),
        "fsdp": write_rank_recipe(root / "fsdp", inputs, 2, FSDP),
        "one-rank": write_rank_recipe(root / "one-rank", inputs, 1, FSDP),
    }
    for folder in folders.values():
        done = train(folder)
        assert done.returncode == 0, done.stderr
    return folders


@pytest.mark.parametrize("name", ["fsdp", "one-rank"])
def test_the_run_is_that_of_one_process(name: str, runs: dict[str, Path]) -> None:
    found, expected = runs[name] / "run", runs["single"] / "run"
    assert json.loads((found / "plan.json").read_text())["launch"]["strategy"]["value"] == "fsdp"
    assert_same_training(found, expected)
    configs = [json.loads((run / "adapter" / "adapter_config.json").read_text()) for run in (found, expected)]
    for config in configs:
        config["target_modules"].sort()
    assert configs[0] == configs[1]
    figures = [json.loads((run / "run.json").read_text())["trainable_parameters"] for run in (found, expected)]
    assert figures[0] == figures[1]


@pytest.mark.parametrize(("before", "processes", "launch"), [("fsdp", 1, {}), ("single", 2, FSDP)])
def test_another_strategy_continues_the_run(
    before: str, processes: int, launch: dict[str, str], runs: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "resumed"
    shutil.copytree(runs[before], folder)
    run = folder / "run"
    shutil.rmtree(run / "adapter")
    for step in (4, 6):
        shutil.rmtree(run / "checkpoints" / f"checkpoint-{step}")
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["launch"] = {"num_processes": processes, **launch}
    recipe["training"]["gradient_accumulation_steps"] = 4 // processes
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = train(folder, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stderr
    assert_same_training(run, runs["single"] / "run")


def test_full_weights_come_out_whole(runs: dict[str, Path], tmp_path: Path) -> None:
    weights = {}
    for name, processes, launch in (("single", 1, {}), ("fsdp", 2, FSDP)):
        folder = write_rank_recipe(tmp_path / name, runs["single"].parent, processes, launch)
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        del recipe["lora"]
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        done = train(folder)
        assert done.returncode == 0, done.stderr
        weights[name] = load_file(folder / "run" / "model" / "model.safetensors")
    assert weights["fsdp"].keys() == weights["single"].keys()
    for key, weight in weights["single"].items():
        assert (weights["fsdp"][key] - weight).abs().max() < 1e-5, key
