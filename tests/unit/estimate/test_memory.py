"""The arithmetic of the memory estimate, and the values that it decides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orpo_cli.estimate.fit_to_memory import fit_to_memory, memory_savings, verdict
from orpo_cli.estimate.memory import Activations, Computation, EstimateInputs, dequantized_bytes, estimate_memory
from orpo_cli.estimate.pair_lengths import PairLengths, PairSize, worst_case_lengths
from orpo_cli.estimate.parameter_counts import adapted_modules, count_trained_by_adapter, optimizer_bytes
from orpo_cli.estimate.throughput import estimate_throughput
from orpo_cli.machine import Machine
from orpo_cli.planning.model_facts import ModelFacts
from orpo_cli.planning.plan import Plan, PlanDraft
from orpo_cli.planning.resolve import complete_by_default, draft_plan
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.schema import LoraSection

GB = 10**9
CPU = Machine("cpu", "a processor", 1, None, 64 * GB, 2, False, False, 1 << 40, "3.11", "Linux")
H100 = replace(CPU, device="cuda", device_name="NVIDIA H100", device_memory_bytes=80 * GB, bf16=True)
LINEAR = tuple((f"layers.{layer}.{name}", 1000, 1000) for layer in range(4) for name in ("q_proj", "up_proj"))
FACTS = ModelFacts(
    "llama", 10_000_000, True, 8192, num_hidden_layers=4, hidden_size=1000, intermediate_size=4000, vocab_size=2000, active_parameters=10_000_000,
    linear_layers=LINEAR,
)  # fmt: skip


def trace(how: Computation, pairs: Sequence[PairSize]) -> Activations:
    """A megabyte a token, a tenth with checkpointing."""
    tokens = sum(pair.packed for pair in pairs)
    return Activations(tokens * (1e5 if how.checkpointing else 1e6), 0)


def plan_and_inputs(
    folder: Path, machine: Machine = CPU, pairs: Sequence[PairSize] = (), **sections: Any
) -> tuple[Plan, PlanDraft, EstimateInputs]:
    recipe = {"model": {"model_name_or_path": "a/b"}, "dataset": {"train": {"path": "x.jsonl"}}, **sections}
    (folder / "r.yaml").write_text(json.dumps(recipe))
    loaded = load_recipe(str(folder / "r.yaml"))
    draft = draft_plan(loaded, machine, FACTS)
    plan = complete_by_default(draft)
    lengths = PairLengths(tuple(pairs), True) if pairs else worst_case_lengths(plan)
    return plan, draft, EstimateInputs(machine, FACTS, lengths, trace)


def test_every_part_of_full_training_is_counted(tmp_path: Path) -> None:
    plan, _, inputs = plan_and_inputs(tmp_path, pairs=[PairSize(10, 21, 21)] * 64)
    memory = estimate_memory(plan, inputs)
    assert (memory.weights, memory.gradients, memory.optimizer, memory.adapter) == (4e7, 4e7, 8e7, 0)


@pytest.mark.parametrize(("cuda", "gigabytes"), [("'13.0'", 0.95), ("None", 0.62)])
def test_a_torch_that_was_built_for_gpus_takes_more_of_the_main_memory(
    tmp_path: Path, cuda: str, gigabytes: float
) -> None:
    folder = tmp_path / "torch"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    (folder / "version.py").write_text(f"cuda, hip = {cuda}, None", encoding="utf-8")
    code = "from orpo_cli.estimate.memory import host_process_bytes; print(host_process_bytes())"
    where = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=where, capture_output=True, text=True, check=True)
    assert float(done.stdout) == gigabytes * 1e9


def test_layers_with_the_same_input_are_dequantized_together_on_cuda(tmp_path: Path) -> None:
    """The engine also stores a copy of their weights, joined with those of the adapter."""
    sections: dict[str, Any] = {"lora": {"r": 8}, "quantization": {"load_in_4bit": True}}
    plan, _, _ = plan_and_inputs(tmp_path, H100, **sections)
    names = [("layers.0.mlp.gate_proj", 3000), ("layers.0.mlp.up_proj", 3000), ("layers.0.down_proj", 4000)]
    facts = replace(FACTS, linear_layers=tuple((name, size, 1000) for name, size in names))
    width = 2 if plan.quantization and plan.quantization.bnb_4bit_compute_dtype == "bfloat16" else 4
    assert dequantized_bytes(plan, facts) == 2 * 6_000_000 * width
    off, _, _ = plan_and_inputs(tmp_path, H100, **sections, engine={"fast_path": "off"})
    assert dequantized_bytes(off, facts) == 4_000_000 * width


def test_checkpointing_keeps_copies_of_the_adapters_of_all_layers(tmp_path: Path) -> None:
    found = {}
    for checkpointing in (False, True):
        training = {"gradient_checkpointing": checkpointing, "bf16": True}
        plan, _, inputs = plan_and_inputs(tmp_path, H100, lora={"r": 8}, training=training)
        found[checkpointing] = estimate_memory(plan, inputs).adapter
    assert found[True] == 1.5 * found[False]


def test_a_step_of_one_micro_batch_does_not_add_gradients_to_activations(tmp_path: Path) -> None:
    plan, _, inputs = plan_and_inputs(tmp_path, pairs=[PairSize(10, 21, 21)] * 64)
    one, several = (
        plan.model_copy(update={"engine": plan.engine.model_copy(update={"max_tokens_per_microbatch": budget})})
        for budget in (1600, 800)
    )
    assert estimate_memory(one, inputs).activations == pytest.approx(1600e6 * 1.2 - 4e7)
    assert estimate_memory(several, inputs).activations == pytest.approx(800e6 * 1.2)


def test_an_adapter_is_counted_by_its_ranks_and_modules() -> None:
    lora = LoraSection(r=8, target_modules=["q_proj"], rank_pattern={"layers.0.q_proj": 4}, layers_to_transform=[0, 2])
    assert adapted_modules([name for name, _, _ in LINEAR], lora) == {"layers.0.q_proj": 4, "layers.2.q_proj": 8}
    assert count_trained_by_adapter(FACTS, lora) == (12 * 2000, 0)


@pytest.mark.parametrize(
    ("name", "size"), [("adamw_torch", 8), ("paged_adamw_8bit", 2.04), ("sgd", 0), ("adafactor", 0), ("lion_32bit", 4)]
)
def test_optimizer_states_have_their_size_per_parameter(name: str, size: float) -> None:
    assert optimizer_bytes(name, 4) == pytest.approx(size)


def test_auto_takes_the_largest_micro_batch_without_checkpointing_if_it_fits(tmp_path: Path) -> None:
    _, draft, inputs = plan_and_inputs(tmp_path, pairs=[PairSize(100, 100, 100)] * 64, lora={})
    chosen = fit_to_memory(draft, inputs)
    assert chosen.engine.max_tokens_per_microbatch == 2048
    assert chosen.training["gradient_checkpointing"] is False


def test_auto_shrinks_micro_batches_before_it_enables_checkpointing(tmp_path: Path) -> None:
    machine = replace(CPU, ram_bytes=2 * GB)
    _, draft, inputs = plan_and_inputs(tmp_path, machine, [PairSize(100, 101, 101)] * 64, lora={})
    chosen = fit_to_memory(draft, inputs)
    assert 300 <= chosen.engine.max_tokens_per_microbatch < 2048
    assert chosen.training["gradient_checkpointing"] is False
    assert verdict(estimate_memory(chosen, inputs), inputs) == "fits"
    assert "2 GB" in chosen.why["engine.max_tokens_per_microbatch"].reason


def test_auto_enables_checkpointing_only_if_the_longest_pair_would_not_fit(tmp_path: Path) -> None:
    machine = replace(CPU, ram_bytes=2 * GB)
    _, draft, inputs = plan_and_inputs(tmp_path, machine, [PairSize(100, 951, 951)] * 64, lora={})
    chosen = fit_to_memory(draft, inputs)
    assert chosen.training["gradient_checkpointing"] is True
    assert "without it" in chosen.why["training.gradient_checkpointing"].reason


def offloading_trace(how: Computation, pairs: Sequence[PairSize]) -> Activations:
    """A megabyte a token; with checkpointing a quarter, most of it inputs of layers, which can be offloaded."""
    tokens = sum(pair.packed for pair in pairs)
    if not how.checkpointing:
        return Activations(tokens * 1e6, 0, kept=tokens * 1e6)
    kept = 0.0 if how.offload else tokens * 2e5
    return Activations(kept + tokens * 5e4, 0, kept=kept)


@pytest.mark.parametrize(
    ("tokens", "ram", "checkpoints", "offloads"),
    [(40_000, 256, False, False), (200_000, 256, True, False), (400_000, 256, True, True), (400_000, 128, True, False)],
)
def test_auto_offloads_layer_inputs_only_if_checkpointing_is_not_enough(
    tmp_path: Path, tokens: int, ram: int, checkpoints: bool, offloads: bool
) -> None:
    machine = replace(H100, ram_bytes=ram * GB, available_bytes=80 * GB)
    pairs = [PairSize(2, tokens // 2, tokens // 2)]
    _, draft, inputs = plan_and_inputs(tmp_path, machine, pairs, lora={})
    inputs = replace(inputs, trace=offloading_trace)
    chosen = fit_to_memory(draft, inputs)
    assert chosen.training["gradient_checkpointing"] is checkpoints
    assert chosen.training.get("activation_checkpointing_kwargs") == ({"offload": True} if offloads else None)
    if offloads:
        assert "main memory" in chosen.why["training.activation_checkpointing_kwargs"].reason
    fits = verdict(estimate_memory(chosen, inputs), inputs) == "fits"
    assert fits is (tokens < 400_000 or offloads)
    settings = [each.setting for each in memory_savings(chosen, inputs)]
    assert ("training.activation_checkpointing_kwargs: {offload: true}" in settings) is (checkpoints and not offloads)


def test_options_of_checkpointing_in_the_recipe_are_kept(tmp_path: Path) -> None:
    training = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    pairs = [PairSize(2, 200_000, 200_000)]
    _, draft, inputs = plan_and_inputs(tmp_path, H100, pairs, lora={}, training=training)
    chosen = fit_to_memory(draft, replace(inputs, trace=offloading_trace))
    assert "activation_checkpointing_kwargs" not in chosen.training


def test_values_in_the_recipe_are_kept(tmp_path: Path) -> None:
    _, draft, inputs = plan_and_inputs(
        tmp_path, H100, training={"gradient_checkpointing": True}, engine={"max_tokens_per_microbatch": 777}
    )
    chosen = fit_to_memory(draft, inputs)
    assert chosen.training["gradient_checkpointing"] is True
    assert chosen.engine.max_tokens_per_microbatch == 777


def test_settings_that_save_memory_are_sorted_by_their_saving(tmp_path: Path) -> None:
    machine = replace(CPU, ram_bytes=GB)
    plan, _, inputs = plan_and_inputs(
        tmp_path, machine, [PairSize(100, 951, 951)] * 64,
        training={"gradient_checkpointing": False, "max_length": 1100}, engine={"max_tokens_per_microbatch": 8192},
    )  # fmt: skip
    inputs = replace(inputs, facts=replace(FACTS, parameters=GB))
    assert verdict(estimate_memory(plan, inputs), inputs) == "does not fit"
    found = memory_savings(plan, inputs)
    assert [each.total for each in found] == sorted(each.total for each in found)
    assert {each.setting.partition(":")[0] for each in found} >= {
        "training.gradient_checkpointing", "engine.max_tokens_per_microbatch", "lora",
    }  # fmt: skip
    alone = plan.model_copy(update={"engine": plan.engine.model_copy(update={"max_tokens_per_microbatch": 256})})
    assert "training.max_length: 550" in [each.setting for each in memory_savings(alone, inputs)]


def test_gpu_time_is_the_matrix_products_at_a_fraction_of_the_peak_speed(tmp_path: Path) -> None:
    plan, _, inputs = plan_and_inputs(tmp_path, H100, [PairSize(100, 101, 101)] * 64)
    inputs = replace(inputs, facts=replace(FACTS, active_parameters=8 * GB))
    step = estimate_throughput(plan, inputs)
    assert (step.pairs, step.tokens) == (32, 32 * 300)
    assert step.seconds == pytest.approx(step.flops / (0.4 * 989e12))
    unknown = replace(inputs, machine=replace(H100, device_name="another"))
    assert estimate_throughput(plan, unknown).seconds is None


def test_a_small_step_on_a_gpu_takes_the_time_to_launch_its_kernels(tmp_path: Path) -> None:
    plan, _, inputs = plan_and_inputs(
        tmp_path, H100, [PairSize(100, 101, 101)] * 64, engine={"max_tokens_per_microbatch": 5000}
    )
    step = estimate_throughput(plan, inputs)
    assert step.seconds == pytest.approx(4 * 0.01 * 2)
    assert "launch" in step.how
