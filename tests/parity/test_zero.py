"""DeepSpeed's ZeRO on two gloo processes: steps, evaluations and checkpoints equal those of one process without it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from parity.test_ranks import Results, run_ranks
from safetensors.torch import load_file
from support.ranks import ZERO_CASES, ZERO_SAVING_CASES, train_case

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"),
]
SUPPORT = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
WEIGHTS = {"lora": "adapter_model.safetensors", "full": "model.safetensors"}
IGNORED = (
    "kind",
    "time",
    "elapsed",
    "epoch",
    "train_loss",
    "memory_gb",
    "total_flos",
    "runtime",
    "per_second",
    "preparation",
)
ROUNDED = ("log_odds_chosen", "rewards/margins")  # small differences of log-probabilities


def assert_equal_lines(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert len(found) == len(expected) > 0
    for line, expected_line in zip(found, expected, strict=True):
        for name, value in expected_line.items():
            if not any(part in name for part in IGNORED):
                absolute = 2e-6 if name.removeprefix("eval_") in ROUNDED else 1e-7
                assert line[name] == pytest.approx(value, rel=1e-5, abs=absolute), f"step {line['step']}: {name}"


def assert_equal_runs(found: Results, expected: Results) -> None:
    assert found["notes"] == expected["notes"] == []
    assert_equal_lines(found["history"], expected["history"])
    for name, weight in expected["weights"].items():
        assert found["weights"][name] == pytest.approx(weight, rel=1e-3, abs=1e-5), name


class Steps:
    """The results of all cases on two ranks, and those of one process without DeepSpeed, for which the stage does not matter."""

    def __init__(self, folder: Path) -> None:
        self.ranks = run_ranks(folder / "ranks", 2, tuple(ZERO_CASES))
        self.alone = cache(lambda name: train_case(folder / "one", name, ZERO_CASES))


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Steps:
    return Steps(tmp_path_factory.mktemp("zero"))


@pytest.mark.parametrize("case", ZERO_CASES)
def test_every_step_and_evaluation_equals_one_process(case: str, steps: Steps) -> None:
    """Also their number: several micro-batches of a step are one step of the optimizer."""
    expected = steps.alone(f"zero1-{case.split('-')[1]}")
    for found in (each[case] for each in steps.ranks):
        assert found["zero_stage"] == int(case[4])
        assert found["weights"] == steps.ranks[0][case]["weights"]
    assert_equal_runs(steps.ranks[0][case], expected)
    assert sum(each[case]["tokens"] for each in steps.ranks) == expected["tokens"]


def test_one_process_with_zero_equals_one_without(steps: Steps, tmp_path: Path) -> None:
    code = (  # deepspeed reads the standard output of its process, which pytest replaces
        "import json, pathlib, sys; from support.ranks import ZERO_CASES, train_case\n"
        "cases = {'alone': {**ZERO_CASES['zero2-lora'], 'alone': True}}\n"
        "found = train_case(pathlib.Path(sys.argv[1]), 'alone', cases)\n"
        "pathlib.Path(sys.argv[1], 'found.json').write_text(json.dumps(found))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env={**os.environ, "PYTHONPATH": SUPPORT})
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["zero_stage"] == 2
    assert_equal_runs(found, steps.alone("zero1-lora"))


class Runs:
    """As ``Steps``, for runs that save; one process may continue a checkpoint of the ranks."""

    def __init__(self, folder: Path) -> None:
        self.ranks, self.one = folder / "ranks", folder / "one"
        self.results = run_ranks(self.ranks, 2, ("zero-saving", *ZERO_SAVING_CASES))
        self.alone = cache(self._alone)

    def _alone(self, case: str) -> Results:
        if (saved := ZERO_SAVING_CASES[case].get("resume")) is not None:
            shutil.copytree(self.ranks / f"{saved}-checkpoints", self.one / f"{saved}-checkpoints", dirs_exist_ok=True)
        return train_case(self.one, case, ZERO_SAVING_CASES)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("zero-saving"))


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_checkpoint_of_shards_is_that_of_one_process(stage: int, kind: str, runs: Runs) -> None:
    runs.alone(f"ddp-{kind}")
    one = runs.one / f"ddp-{kind}-checkpoints" / "checkpoint-6"
    sharded = runs.ranks / f"zero{stage}-{kind}-checkpoints" / "checkpoint-6"
    names = {path.name for path in one.iterdir()} - {"rng_state.pth"} | {"rng_state_0.pth", "rng_state_1.pth"}
    assert {path.name for path in sharded.iterdir()} == names
    weights, expected = load_file(sharded / WEIGHTS[kind]), load_file(one / WEIGHTS[kind])
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)
    optimizer, expected_optimizer = (torch.load(each / "optimizer.pt") for each in (sharded, one))
    assert optimizer["param_groups"] == expected_optimizer["param_groups"]
    torch.testing.assert_close(optimizer["state"], expected_optimizer["state"], rtol=1e-3, atol=1e-6)
    scheduler, expected_scheduler = (torch.load(each / "scheduler.pt") for each in (sharded, one))
    assert scheduler == expected_scheduler


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize(
    "run",
    ["zero1-{}", "zero2-{}", "zero3-{}", "ddp-{}-then-zero2", "ddp-{}-then-zero3", "zero1-{}-then-ddp", "zero3-{}-then-ddp"],
)  # fmt: skip
def test_a_run_that_changes_its_strategy_equals_an_uninterrupted_one(run: str, kind: str, runs: Runs) -> None:
    for found in runs.results:
        assert_equal_runs(found[run.format(kind)], runs.alone(f"ddp-{kind}"))


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_one_process_continues_a_checkpoint_of_shards(kind: str, runs: Runs) -> None:
    assert_equal_runs(runs.alone(f"zero3-{kind}-then-ddp"), runs.alone(f"ddp-{kind}"))


@pytest.mark.parametrize("case", [name for name in ZERO_SAVING_CASES if "best" in name])
def test_the_best_checkpoint_is_loaded_into_shards(case: str, runs: Runs) -> None:
    found = runs.results[0][case]
    losses = [line["eval_loss"] for line in found["history"] if "eval_loss" in line and line["step"]]
    best = losses.index(min(losses)) + 1
    assert best < len(losses)
    weights = load_file(runs.ranks / f"{case}-checkpoints" / f"checkpoint-{best}" / WEIGHTS[case.split("-")[2]])
    for name, total in found["weights"].items():
        key = name.replace(".default", "")
        if key in weights:  # one name of tied weights
            assert weights[key].double().sum().item() == pytest.approx(total, rel=1e-9), name
    assert sum(name.replace(".default", "") in weights for name in found["weights"]) == len(weights)
