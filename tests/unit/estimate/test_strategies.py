"""Memory, communication and choice of strategies for several processes, by their arithmetic."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orpo_cli.estimate.fit_to_memory import fit_to_memory
from orpo_cli.estimate.memory import (
    Activations,
    Computation,
    EstimateInputs,
    estimate_memory,
    trace_largest_micro_batch,
)
from orpo_cli.estimate.pair_lengths import PairLengths, PairSize
from orpo_cli.estimate.strategies import (
    DDP_BUCKETS,
    STRATEGIES,
    Strategy,
    StrategyEstimate,
    estimate_strategy,
    needed_setting,
    obstacle,
    strategy_of,
)
from orpo_cli.estimate.strategy_choice import compare_strategies
from orpo_cli.machine import Machine, assume_gpus
from orpo_cli.planning.model_facts import ModelFacts
from orpo_cli.planning.plan import Plan, PlanDraft
from orpo_cli.planning.resolve import complete_by_default, draft_plan
from orpo_cli.recipe.load import load_recipe

GB = 10**9
CPU = Machine("cpu", "a processor", 1, None, 64 * GB, 2, False, False, 1 << 40, "3.11", "Linux")
LAYERS, HIDDEN, VOCAB = 10, 1000, 10_000
HEAD = HIDDEN * VOCAB
IN_LAYER = 98_000_000
PARAMETERS = LAYERS * IN_LAYER + 2 * HEAD  # 1e9
FACTS = ModelFacts(
    "llama", PARAMETERS, True, 8192, num_hidden_layers=LAYERS, hidden_size=HIDDEN, intermediate_size=4000, vocab_size=VOCAB,
    active_parameters=PARAMETERS, linear_layers=tuple((f"layers.{each}.up_proj", 98_000, 1000) for each in range(LAYERS)),
)  # fmt: skip


def no_activations(how: Computation, pairs: Sequence[PairSize]) -> Activations:
    return Activations(0, 0)


def plan_and_inputs(
    folder: Path, processes: int, machine: Machine | None = None, trace: Any = no_activations, **sections: Any
) -> tuple[Plan, PlanDraft, EstimateInputs]:
    training = {
        "bf16": True,
        "optim": "adamw_torch_fused",
        "gradient_checkpointing": True,
        **sections.pop("training", {}),
    }
    recipe = {
        "model": {"model_name_or_path": "a/b", **sections.pop("model", {})}, "dataset": {"train": {"path": "x.jsonl"}},
        "training": training, "launch": {"num_processes": processes, **sections.pop("launch", {})}, **sections,
    }  # fmt: skip
    (folder / "r.yaml").write_text(json.dumps(recipe))
    machine = machine or assume_gpus(CPU, processes)
    draft = draft_plan(load_recipe(str(folder / "r.yaml")), machine, FACTS)
    lengths = PairLengths((PairSize(100, 101, 101),) * 512, measured=True)
    return complete_by_default(draft), draft, EstimateInputs(machine, FACTS, lengths, trace)


def states(found: StrategyEstimate) -> float:
    """Bytes of weights, gradients and optimizer states."""
    memory = found.memory
    return memory.weights + memory.adapter + memory.gradients + memory.optimizer


def test_ddp_replicates_what_one_process_has(tmp_path: Path) -> None:
    plan, _, inputs = plan_and_inputs(tmp_path, 4)
    found = estimate_strategy(plan, inputs, Strategy("ddp"))
    assert found.memory == estimate_memory(plan, inputs)
    assert found.buffers == DDP_BUCKETS
    assert found.sent == 2 * 3 / 4 * 4 * PARAMETERS


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2)])
def test_fsdp_shards_weights_gradients_and_states_in_their_dtype(tmp_path: Path, dtype: str, width: int) -> None:
    """Gathered: two layers in bfloat16 with the gradient of one, which is summed in float32."""
    plan, _, inputs = plan_and_inputs(tmp_path, 4, model={"dtype": dtype}, engine={"max_tokens_per_microbatch": 302})
    found = estimate_strategy(plan, inputs, Strategy("fsdp"))
    assert states(found) == 4 * width * PARAMETERS / 4
    layers = (4 + 4 / 4) * IN_LAYER + 2 * 2 * IN_LAYER + 2 * IN_LAYER
    assert found.total - found.memory.process - states(found) == pytest.approx(layers)
    micro_batches = trace_largest_micro_batch(plan, inputs)[1]
    assert micro_batches > 1
    gathered = 2 * 2 * (PARAMETERS - 2 * HEAD) + 2 * HEAD + 2 * width * HEAD
    assert found.sent == pytest.approx(3 / 4 * micro_batches * (gathered + 4 * PARAMETERS))


@pytest.mark.parametrize("processes", [2, 8, 64])
def test_zero_has_the_states_of_deepspeeds_own_estimate(tmp_path: Path, processes: int) -> None:
    """``estimate_zero2_model_states_mem_needs`` of DeepSpeed 0.19.8: 2 + 18 / N bytes a parameter, offloaded 2."""
    plan, _, inputs = plan_and_inputs(tmp_path, processes)
    found = estimate_strategy(plan, inputs, Strategy("deepspeed", 2))
    at_the_end = 4 * PARAMETERS / processes  # the gradients in float32
    assert states(found) + at_the_end == pytest.approx((2 + 18 / processes) * PARAMETERS)
    assert found.total - found.memory.process == pytest.approx(
        states(found) + max(at_the_end, 537e6 * VOCAB / 16384), rel=0.01
    )
    offloaded = estimate_strategy(plan, inputs, Strategy("deepspeed", 2, True))
    assert states(offloaded) == 2 * PARAMETERS
    assert offloaded.host > 16 * PARAMETERS


def test_each_stage_of_zero_shards_more(tmp_path: Path) -> None:
    plan, _, inputs = plan_and_inputs(tmp_path, 8)
    stages = [estimate_strategy(plan, inputs, Strategy("deepspeed", stage)) for stage in (1, 2, 3)]
    assert [round(states(each) / PARAMETERS, 3) for each in stages] == [2 + 2 + 12 / 8, 2 + 2 / 8 + 12 / 8, 16 / 8]
    assert stages[0].sent < stages[2].sent
    without_weights = estimate_strategy(plan, inputs, Strategy("deepspeed", 3, True, True))
    assert states(without_weights) == 0
    assert without_weights.host > 18 * PARAMETERS


def test_an_adapter_is_all_that_is_trained_and_summed(tmp_path: Path) -> None:
    plan, _, inputs = plan_and_inputs(tmp_path, 4, lora={"r": 8})
    adapter = 8 * (98_000 + 1000) * LAYERS
    ddp, fsdp, zero = (
        estimate_strategy(plan, inputs, each) for each in (Strategy("ddp"), Strategy("fsdp"), Strategy("deepspeed", 3))
    )
    assert ddp.sent == 2 * 3 / 4 * 4 * adapter
    assert states(fsdp) == pytest.approx((2 * PARAMETERS + 16 * adapter) / 4)
    assert states(zero) == pytest.approx((2 * PARAMETERS + (2 + 2 + 12) * adapter) / 4)


def test_sharding_over_more_processes_never_takes_more_memory(tmp_path: Path) -> None:
    totals: dict[str, list[float]] = {}
    for processes in (2, 8, 64):
        plan, _, inputs = plan_and_inputs(tmp_path, processes)
        for strategy in STRATEGIES:
            totals.setdefault(strategy.name, []).append(estimate_strategy(plan, inputs, strategy).total)
    assert all(sizes == sorted(sizes, reverse=True) for sizes in totals.values())
    assert len({name for name, sizes in totals.items() if sizes[0] > sizes[2]}) > 5


def gigabytes(size: float) -> Any:
    return lambda how, pairs: Activations(size * GB, 0, forward=size * GB, kept=size * GB, after_head=size * GB)


@pytest.mark.parametrize(("device", "expected"), [(80, "ddp"), (16, "fsdp"), (3, "fsdp")])
def test_the_strategy_is_the_first_that_fits_each_device(tmp_path: Path, device: int, expected: str) -> None:
    machine = replace(assume_gpus(CPU, 8), device_memory_bytes=device * GB)
    _, draft, inputs = plan_and_inputs(tmp_path, 8, machine, gigabytes(1))
    assert "launch.strategy" in draft.undecided()
    chosen = fit_to_memory(draft, inputs)
    assert chosen.launch.strategy == expected
    why = chosen.why["launch.strategy"]
    assert why.origin == "decided"
    assert ("none fits" in why.reason) is (device == 3)
    assert ("with fsdp" in why.reason) is (device < 80)


def test_a_written_strategy_is_kept(tmp_path: Path) -> None:
    _, draft, inputs = plan_and_inputs(tmp_path, 8, launch={"strategy": "fsdp"})
    assert fit_to_memory(draft, inputs).launch.strategy == "fsdp"
    config = {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}}
    _, draft, inputs = plan_and_inputs(tmp_path, 8, launch={"deepspeed_config": config})
    assert strategy_of(fit_to_memory(draft, inputs).launch) == Strategy("deepspeed", 3, False, True)


def test_the_configuration_of_a_deepspeed_strategy_is_read_back(tmp_path: Path) -> None:
    plan, *_ = plan_and_inputs(tmp_path, 2)
    for strategy in STRATEGIES:
        if strategy.zero:
            changes = {"strategy": "deepspeed", "deepspeed_config": strategy.config}
            assert strategy_of(plan.launch.model_copy(update=changes)) == strategy


def test_a_strategy_that_needs_another_setting_is_not_chosen_and_says_so(tmp_path: Path) -> None:
    machine = replace(assume_gpus(CPU, 8), device_memory_bytes=8 * GB)
    plan, draft, inputs = plan_and_inputs(tmp_path, 8, machine, training={"optim": "paged_adamw_8bit"})
    assert needed_setting(plan, Strategy("fsdp")) == "training.optim: adamw_torch_fused"
    assert fit_to_memory(draft, inputs).launch.strategy == "ddp"
    rows = {row.strategy: row for row in compare_strategies(plan, inputs)}
    assert (rows["ddp"].fits, rows["fsdp"].fits, rows["fsdp"].smallest_device) == (False, True, 16)
    assert rows["fsdp"].setting == "training.optim: adamw_torch_fused"


def test_quantized_weights_exclude_strategies_that_divide_them(tmp_path: Path) -> None:
    plan, _, inputs = plan_and_inputs(
        tmp_path, 4, lora={"r": 8}, quantization={"load_in_4bit": True}, training={"optim": "adamw_torch_fused"}
    )
    assert obstacle(plan, Strategy("deepspeed", 3)) is not None
    assert needed_setting(plan, Strategy("fsdp")) == "quantization.bnb_4bit_quant_storage: bfloat16"
    assert not any(row.strategy.startswith("zero-3") for row in compare_strategies(plan, inputs))
