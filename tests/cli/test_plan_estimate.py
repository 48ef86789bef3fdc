"""`orpo plan`: its estimate of memory and time per step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tiny import write_recipe


def test_the_parts_of_an_estimate_add_up(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    recipe = write_recipe(tmp_path)
    estimate = json.loads(orpo_here("plan", recipe, "--json").stdout)["estimate"]
    parts = dict(estimate["memory_bytes"])
    assert parts.pop("total") == pytest.approx(sum(parts.values()), abs=10)
    assert {"weights", "adapter", "gradients", "optimizer", "activations", "logits"} <= parts.keys()
    assert (estimate["verdict"], estimate["activations"], estimate["lengths"]) == ("fits", "traced", "of the pairs")
    assert estimate["step"]["tokens"] > 0


def test_a_rough_estimate_names_its_reason(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward_that_needs_values(*_: Any, **__: Any) -> None:
        raise NotImplementedError("numbers without content\nsecond line")

    monkeypatch.setenv("ORPO_CACHE", str(tmp_path / "cache"))  # without the traces of other tests
    monkeypatch.setattr("transformers.models.llama.modeling_llama.LlamaDecoderLayer.forward", forward_that_needs_values)
    stdout = orpo_here("plan", write_recipe(tmp_path), "--all").stdout
    assert "roughly, from the widths of the layers (NotImplementedError: numbers without content)" in stdout


def test_the_plan_of_several_processes_compares_strategies_on_assumed_gpus(
    tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    done = orpo_here("plan", write_recipe(tmp_path), "--all", "--set", "launch.num_processes=4")
    assert done.returncode == 0, done.stderr
    assert "device = cuda  # 80 GB GPU (assumed)" in done.stdout
    assert "# 4 processes, each on its own 80 GB GPU (assumed):\n#   with ddp, a step fits: " in done.stdout
    assert "launch.strategy = ddp  # about " in done.stdout
    table = done.stdout.partition("# strategies: ")[2].splitlines()
    rows = [line.split()[1].rstrip(",") for line in table if line.endswith("yes  16 GB")]
    assert rows == ["ddp", "fsdp", "zero-1", "zero-2", "zero-3", "fsdp", *(f"zero-{stage}" for stage in (1, 2, 3, 3))]
    assert max(map(len, table)) <= 60
    assert done.stderr == ""


def test_a_plan_for_a_gpu_that_this_machine_does_not_have(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    recipe = write_recipe(tmp_path)
    done = orpo_here("plan", recipe, "--gpu-memory", "24")
    assert done.returncode == 0, done.stderr
    assert ", on cuda" in done.stdout
    assert "of 24.0 GB: fits" in done.stdout
    estimate = json.loads(orpo_here("plan", recipe, "--gpu-memory", "1.5", "--json").stdout)["estimate"]
    assert estimate["available_bytes"] == 1_500_000_000
    several = orpo_here("plan", recipe, "--all", "--gpu-memory", "40", "--set", "launch.num_processes=2").stdout
    assert "# 2 processes, each on its own 40 GB GPU (assumed):" in several
    refused = orpo_here("plan", recipe, "--gpu-memory", "24", "--set", "training.use_cpu=true")
    assert (refused.returncode, "--gpu-memory does nothing" in refused.stderr) == (2, True)
    for value, message in (("inf", "not the memory of a GPU"), ("nan", "greater than or equal to 1")):
        wrong = orpo_here("plan", recipe, "--gpu-memory", value)
        assert (wrong.returncode, message in wrong.stderr) == (2, True)


def test_a_plan_without_the_configuration_of_the_model_says_what_it_needs(
    tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    done = orpo_here("plan", write_recipe(tmp_path), "--set", "model.model_name_or_path=some/model-7B")
    assert (
        "memory    not known, and the time neither: the configuration of some/model-7B is not on this machine."
        in done.stdout
    )
    assert "A folder with its config.json is enough: --set model.model_name_or_path=DIR" in done.stdout


def test_the_document_of_several_processes_has_each_strategy(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    changes = [
        f"--set={each}" for each in ("launch.num_processes=2", "launch.strategy=fsdp", "training.optim=adamw_torch")
    ]
    estimate = json.loads(orpo_here("plan", write_recipe(tmp_path, lora=False), *changes, "--json").stdout)["estimate"]
    parts = dict(estimate["memory_bytes"])
    assert parts.pop("total") == pytest.approx(sum(parts.values()), abs=10)
    assert parts["buffers"] >= 0  # what the logits need at another time holds them in so small a model
    assert (estimate["processes"], estimate["strategy"], estimate["excluded"]) == (2, "fsdp", {})
    rows = {row["strategy"]: row for row in estimate["strategies"]}
    assert len(rows) == 10
    assert all(row["fits"] and row["smallest_device"] == 16 for row in rows.values())
    assert rows["fsdp"]["sent_bytes"] == estimate["sent_bytes"] > 0


def test_long_pairs_are_checkpointed_and_then_offloaded(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    recipe = {
        "model": {"model_name_or_path": "meta-llama/Llama-3.1-8B"},
        "lora": {"r": 16, "target_modules": "all-linear"},
        "dataset": {"train": {"path": "org/pairs"}},
        "launch": {"num_processes": 2, "strategy": "ddp"},
    }
    path = tmp_path / "long.json"
    path.write_text(json.dumps(recipe))
    lines = {}
    for length in (2048, 16384, 65536):
        done = orpo_here("plan", path, "--all", "--set", f"training.max_length={length}")
        assert done.returncode == 0, done.stderr
        values = (line.partition("  # ") for line in done.stdout.splitlines() if " = " in line)
        lines[length] = {setting: reason for setting, _, reason in values}
    assert "training.gradient_checkpointing = false" in lines[2048]
    checkpointed = lines[16384]["training.gradient_checkpointing = true"]
    assert "without it, 80 GB available" in checkpointed
    offload = next(reason for each, reason in lines[65536].items() if "activation_checkpointing_kwargs" in each)
    assert "with checkpointing alone, 80 GB available" in offload
    assert not any("activation_checkpointing_kwargs" in each for each in lines[16384])


def test_offloading_on_a_cpu_is_replaced_with_a_warning(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    options = {"gradient_checkpointing": True, "activation_checkpointing_kwargs": {"offload": True}}
    done = orpo_here("plan", write_recipe(tmp_path, training={"use_cpu": True, **options}))
    assert "activations are in main memory already" in done.stderr
    assert "[value-replaced]" in done.stderr


def test_processes_on_a_cpu_share_its_memory(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    recipe = write_recipe(tmp_path, training={"use_cpu": True})
    estimates = [
        json.loads(orpo_here("plan", recipe, "--set", f"launch.num_processes={count}", "--json").stdout)["estimate"]
        for count in (1, 4)
    ]
    assert estimates[1]["available_bytes"] == pytest.approx(estimates[0]["available_bytes"] / 4, rel=0.2)
    assert "strategies" not in estimates[0]
    assert estimates[1]["strategy"] == "ddp"
