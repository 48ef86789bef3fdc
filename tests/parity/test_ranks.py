"""The step over ranks: two (slow: four) gloo processes compute the steps, metrics and evaluations of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.ranks import CASES, train_case

FAST = (
    "packed-lora",
    "packed-empty-share",
    "packed-memory",
    "packed-weights",
    "trl-lora",
    "trl-weights",
    "fsdp-lora",
    "fsdp-full",
)
UNEQUAL = ("kind", "time", "elapsed", "epoch", "memory_gb", "total_flos")  # an epoch is counted in batches of a rank
ROUNDED = (
    "log_odds_chosen",
    "rewards/margins",
)  # small differences of log-probabilities, which float32 resolves to 5e-7
Results = dict[str, Any]

pytestmark = pytest.mark.timeout(1200)
slow = pytest.mark.slow


def start_ranks(folder: Path, ranks: int, cases: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    tests = Path(__file__).parents[1]
    path = os.pathsep.join(filter(None, (str(tests), str(tests.parent), os.environ.get("PYTHONPATH"))))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m", "support.ranks"]
    return subprocess.run(
        [sys.executable, *launcher, str(folder), *cases],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip


def run_ranks(folder: Path, ranks: int, cases: tuple[str, ...]) -> list[Results]:
    """The results of each rank."""
    done = start_ranks(folder, ranks, cases)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(ranks)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The results of a case: of one process, and of each of several."""
    folder = tmp_path_factory.mktemp("ranks")

    @cache
    def several(ranks: int, cases: tuple[str, ...]) -> list[Results]:
        return run_ranks(folder / f"{ranks}-{len(cases)}", ranks, cases)

    @cache
    def alone(case: str) -> Results:
        return train_case(folder, case)

    def of(case: str, ranks: int = 2) -> tuple[Results, list[Results]]:
        cases = FAST if ranks == 2 and case in FAST else tuple(each for each in CASES if each != "fsdp-memory")
        return alone(case), [each[case] for each in several(ranks, cases)]

    of.several = several  # type: ignore[attr-defined]
    return of


def assert_equal_lines(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert len(found) == len(expected) > 0
    for line, expected_line in zip(found, expected, strict=True):
        assert line.keys() == expected_line.keys()
        for name, value in expected_line.items():
            if name in UNEQUAL or "runtime" in name or "per_second" in name or "preparation" in name:
                continue
            absolute = 1e-6 if name.removeprefix("eval_") in ROUNDED else 1e-8  # logits are near zero
            assert line[name] == pytest.approx(value, rel=1e-6, abs=absolute), f"step {line['step']}: {name}"


@pytest.mark.parametrize(
    ("case", "ranks"),
    [
        *((case, 2) for case in FAST if "failing" not in CASES[case]),
        *(
            pytest.param(case, ranks, marks=slow)
            for ranks in (2, 4)
            for case in CASES
            if "failing" not in CASES[case] and (case not in FAST or ranks == 4)
        ),
    ],
)
def test_every_step_and_evaluation_equals_one_process(case: str, ranks: int, results: Any) -> None:
    alone, of_rank = results(case, ranks)
    first = of_rank[0]
    assert first["sharded"] == (CASES[case].get("strategy") == "fsdp")
    assert alone["notes"] == first["notes"] == []
    assert_equal_lines(first["history"], alone["history"])
    assert_equal_lines(first["metrics"], alone["metrics"])
    assert sum(each["tokens"] for each in of_rank) == alone["tokens"]
    assert all(each["metrics"] == [] for each in of_rank[1:])  # rank 0 alone writes the file
    for each in of_rank:
        assert each["weights"] == first["weights"]
    for name, weight in alone["weights"].items():
        assert first["weights"][name] == pytest.approx(weight, rel=1e-3, abs=1e-5), name


def test_all_ranks_repeat_a_step_in_which_one_runs_out_of_memory(results: Any) -> None:
    alone, of_rank = results("packed-memory")
    assert_equal_lines(of_rank[0]["history"], alone["history"])
    assert of_rank[0]["weights"] == of_rank[1]["weights"]
    checkpointing, retry = of_rank[0]["notes"]
    assert "on rank 1: activation checkpointing" in checkpointing
    assert "on rank 1: the memory of the failed try is free now" in retry
    assert of_rank[1]["notes"] == []  # said once


@slow
def test_a_loss_that_is_not_finite_stops_all_ranks_before_the_optimizer(results: Any) -> None:
    _, of_rank = results("packed-not-finite")
    assert of_rank[0]["error"] == of_rank[1]["error"]
    assert "the loss is nan" in of_rank[0]["error"]
    assert "train.jsonl:" in of_rank[0]["error"]
    assert of_rank[0]["weights"] == of_rank[1]["weights"]


@slow
@pytest.mark.parametrize(
    ("case", "found"),
    [("fallback", "in another process, it differs"), ("fsdp-fallback", "it gave another result: the")],
)
def test_all_ranks_leave_the_fast_path_together(case: str, found: str, results: Any) -> None:
    _, of_rank = results(case)
    assert found in of_rank[0]["notes"][0]
    assert of_rank[0]["weights"] == of_rank[1]["weights"]
    assert len([line for line in of_rank[0]["history"] if "loss" in line]) == (2 if "fsdp" in case else 3)


@slow
def test_a_rank_that_runs_out_of_memory_with_sharded_weights_ends_the_run(tmp_path: Path) -> None:
    done = start_ranks(tmp_path, 2, ("fsdp-memory",))
    assert done.returncode != 0
    assert "MachineError: out of memory in step 5 on rank 1" in done.stderr
    assert "With sharded weights a step cannot be repeated" in done.stderr


def test_a_gradient_that_no_rank_has_stays_absent(results: Any) -> None:
    for found in results.several(2, FAST):
        assert found["averaged"] == {
            "everywhere": [1.5] * 3, "nowhere": None, "first": [0.5] * 4, "half": [1.5] * 4, "large": [1.5] * 4,
        }  # fmt: skip
