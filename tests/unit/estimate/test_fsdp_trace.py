"""The memory of FSDP2 by formula against a trace of ``fully_shard`` with a fake process group of 2, 8 and 64 ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.fsdp_trace import CASES, PAIRS, WORLD_SIZES, llama

from orpo_cli.estimate import strategies
from orpo_cli.estimate.memory import EstimateInputs
from orpo_cli.estimate.pair_lengths import PairLengths
from orpo_cli.estimate.strategies import Strategy, estimate_strategy
from orpo_cli.machine import Machine
from orpo_cli.model.model_facts import model_facts
from orpo_cli.model.model_source import ModelSource
from orpo_cli.planning.resolve import resolve
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.schema import ModelSection
from orpo_cli.training.memory_trace import MemoryTracer

CPU = Machine("cpu", "a processor", 1, None, 10**10, 2, False, False, 1 << 40, "3.11", "Linux")


@pytest.fixture(scope="module")
def traced() -> dict[str, dict[str, int]]:
    """Peaks of all cases, from one process."""
    done = subprocess.run(
        [sys.executable, "-m", "support.fsdp_trace"],
        env=os.environ | {"PYTHONPATH": f"{Path(__file__).parents[2]}:{Path(__file__).parents[3]}", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("case", CASES)
def test_the_formula_is_within_10_percent_of_the_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traced: dict[str, dict[str, int]], case: str, world_size: int
) -> None:
    monkeypatch.setattr(strategies, "HEAP_OVERHEAD", 1.0)  # the trace counts tensors, not the heap
    how = CASES[case]
    llama(how.tied).save_pretrained(tmp_path)
    recipe: dict[str, Any] = {
        "model": {"model_name_or_path": str(tmp_path), "dtype": how.dtype},
        "dataset": {"train": {"path": "x.jsonl"}},
        "training": {
            "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "bf16": True, "use_cpu": True, "max_steps": 1,
        },
        "engine": {"max_tokens_per_microbatch": sum(pair.packed for pair in PAIRS)},
        "launch": {"num_processes": world_size, "strategy": "fsdp"},
        **({} if how.lora is None else {"lora": how.lora.model_dump(include={"r"})}),
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    facts = model_facts(ModelSource(ModelSection(model_name_or_path=str(tmp_path))))
    plan = resolve(load_recipe(str(tmp_path / "recipe.yaml")), CPU, facts)
    plan = plan.model_copy(update={"training": {**plan.training, "gradient_checkpointing": False}})
    lengths = PairLengths(PAIRS * 2 * world_size, measured=True)
    inputs = EstimateInputs(CPU, facts, lengths, lambda how, pairs: MemoryTracer(facts.config, how)(pairs))
    found = estimate_strategy(plan, inputs, Strategy("fsdp"))
    ours = found.total - found.memory.process - found.memory.optimizer
    print(case, world_size, f"formula {ours / 1e6:.1f} MB, traced {traced[case][str(world_size)] / 1e6:.1f} MB")
    assert ours == pytest.approx(traced[case][str(world_size)], rel=0.1)
