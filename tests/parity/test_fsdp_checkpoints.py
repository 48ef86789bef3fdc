"""Checkpoints of two gloo processes with weights sharded by FSDP2: they have whole state, and any strategy continues them."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from parity.test_ranks import Results, assert_equal_lines, run_ranks
from safetensors.torch import load_file
from support.ranks import SAVING_CASES, train_case

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
WEIGHTS = {"lora": "adapter_model.safetensors", "full": "model.safetensors"}


class Runs:
    """The results of all cases on two ranks, and of a case in one process, which may continue a checkpoint of the ranks."""

    def __init__(self, folder: Path) -> None:
        self.ranks, self.one = folder / "ranks", folder / "one"
        self.results = run_ranks(self.ranks, 2, ("saving", *SAVING_CASES))
        self.alone = cache(self._alone)

    def _alone(self, case: str) -> Results:
        if (saved := SAVING_CASES[case].get("resume")) is not None:
            shutil.copytree(self.ranks / f"{saved}-checkpoints", self.one / f"{saved}-checkpoints", dirs_exist_ok=True)
        return train_case(self.one, case, SAVING_CASES)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("fsdp"))


def assert_equal_runs(found: Results, expected: Results) -> None:
    assert found["notes"] == expected["notes"] == []
    lines, expected_lines = (
        [line for line in each["history"] if "train_loss" not in line]  # of the steps since the start or the checkpoint
        for each in (found, expected)
    )
    assert_equal_lines(lines, expected_lines)
    for name, weight in expected["weights"].items():
        assert found["weights"][name] == pytest.approx(weight, rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_checkpoint_of_shards_is_that_of_one_process(kind: str, runs: Runs) -> None:
    runs.alone(f"ddp-{kind}")
    one = runs.one / f"ddp-{kind}-checkpoints" / "checkpoint-6"
    sharded = runs.ranks / f"fsdp-{kind}-checkpoints" / "checkpoint-6"
    names = {path.name for path in one.iterdir()} - {"rng_state.pth"} | {"rng_state_0.pth", "rng_state_1.pth"}
    assert {path.name for path in sharded.iterdir()} == names
    weights, expected = load_file(sharded / WEIGHTS[kind]), load_file(one / WEIGHTS[kind])
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-6)
    optimizer, expected_optimizer = (torch.load(each / "optimizer.pt") for each in (sharded, one))
    assert optimizer["param_groups"] == expected_optimizer["param_groups"]
    torch.testing.assert_close(optimizer["state"], expected_optimizer["state"], rtol=1e-4, atol=1e-7)
    configs = [each / "config.json" for each in (sharded, one)] if kind == "full" else []
    assert len({path.read_text() for path in configs}) <= 1


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("run", ["fsdp-{}", "ddp-{}-then-fsdp", "fsdp-{}-then-ddp"])
def test_a_run_that_changes_its_strategy_equals_an_uninterrupted_one(run: str, kind: str, runs: Runs) -> None:
    for found in runs.results:
        assert found[run.format(kind)]["sharded"] == (not run.startswith("fsdp-{}-then"))
        assert_equal_runs(found[run.format(kind)], runs.alone(f"ddp-{kind}"))


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_one_process_continues_a_checkpoint_of_shards(kind: str, runs: Runs) -> None:
    assert_equal_runs(runs.alone(f"fsdp-{kind}-then-ddp"), runs.alone(f"ddp-{kind}"))


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_best_checkpoint_is_loaded_into_shards(kind: str, runs: Runs) -> None:
    found: dict[str, Any] = runs.results[0][f"fsdp-best-{kind}"]
    losses = [line["eval_loss"] for line in found["history"] if "eval_loss" in line and line["step"]]
    best = losses.index(min(losses)) + 1
    assert best < len(losses)
    weights = load_file(runs.ranks / f"fsdp-best-{kind}-checkpoints" / f"checkpoint-{best}" / WEIGHTS[kind])
    for name, total in found["weights"].items():
        key = name.replace(".default", "")
        if key in weights:  # one name of tied weights
            assert weights[key].double().sum().item() == pytest.approx(total, rel=1e-9), name
    assert sum(name.replace(".default", "") in weights for name in found["weights"]) == len(weights)
