"""The simulated steps equal the steps of the Trainer."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from support.tiny import tiny_llama, tiny_tokenizer, write_pairs

from orpo_cli.data.prepare import prepare
from orpo_cli.estimate.batching import (
    MAX_SIMULATED_PAIRS,
    numpy_order,
    random_order,
    simulate_steps,
    split_by_token_budget,
)
from orpo_cli.estimate.pair_lengths import PairSize
from orpo_cli.machine import probe
from orpo_cli.planning.plan import Plan
from orpo_cli.planning.resolve import resolve
from orpo_cli.recipe.load import load_recipe
from orpo_cli.training.engine.packed_step import Engine
from orpo_cli.training.make_trainer import TrainingInputs, make_trainer


def planned(folder: Path, **training: Any) -> Plan:
    recipe = {
        "model": {"model_name_or_path": "unused/unused"},
        "lora": {"r": 2},
        "dataset": {"train": {"path": str(folder / "train.jsonl")}, "max_prompt_length": 128},
        "training": {
            "num_train_epochs": 2, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "max_length": 256,
            "save_strategy": "no", "use_cpu": True, "gradient_checkpointing": False, "seed": 7, **training,
        },
        "engine": {"fast_path": "required"},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return resolve(load_recipe(str(folder / "recipe.yaml")), probe())


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"max_steps": 4},
        {"data_seed": 0},
        {"dataloader_drop_last": True},
        {"train_sampling_strategy": "sequential"},
        {"num_train_epochs": 0.5},
    ],
    ids=["two epochs", "max_steps", "data_seed", "drop_last", "sequential", "half an epoch"],
)
def test_simulated_steps_equal_the_trainers_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, training: dict[str, Any]
) -> None:
    write_pairs(tmp_path / "train.jsonl", 20)
    plan = planned(tmp_path, **training)
    tokenizer = tiny_tokenizer()
    data = prepare(plan.dataset, tokenizer, max_length=256, max_prompt_length=128, note=lambda _: None).train
    rows = list(data["row"])
    taken: list[list[int]] = []
    begin = Engine.start_step

    def noted(engine: Engine, pairs: Any, across_processes: bool = True) -> None:
        if across_processes:
            taken.append(sorted(rows.index(pair.row) for pair in pairs))
        begin(engine, pairs, across_processes)

    monkeypatch.setattr(Engine, "start_step", noted)
    inputs = TrainingInputs(tiny_llama(len(tokenizer)), tokenizer, data)
    make_trainer(plan, tmp_path / "out", inputs, []).train()
    foreseen = simulate_steps(plan, pairs_of(len(rows)))
    assert foreseen is not None
    assert [sorted(step) for step in foreseen] == taken


def pairs_of(*lengths: int) -> list[PairSize]:
    """Pairs of these packed lengths; one number: that many pairs of ten tokens."""
    if len(lengths) == 1:
        return pairs_of(*[10] * lengths[0])
    return [PairSize(length, 1, 1) for length in lengths]


def test_each_process_has_its_share_of_a_step(tmp_path: Path) -> None:
    plan = planned(tmp_path, train_sampling_strategy="sequential", num_train_epochs=1)
    plan = plan.model_copy(update={"launch": plan.launch.model_copy(update={"num_processes": 2, "pairs_per_step": 12})})
    steps = simulate_steps(plan, pairs_of(60, 5, 7, 9, 11, 3, 8, 1, 2, 4, 6, 7, 50, 5, 5))
    assert steps is not None
    assert list(steps) == [[0, 8], [1, 2, 3, 4, 5, 6, 7, 9, 10, 11], [12], [13, 14]]
    lonely = simulate_steps(plan, pairs_of(13))
    assert lonely is not None
    assert list(lonely)[-1] == [12]  # the other process has no pairs in the last step


def test_other_sampling_strategies_and_too_many_pairs_are_not_simulated(tmp_path: Path) -> None:
    assert simulate_steps(planned(tmp_path, train_sampling_strategy="group_by_length"), pairs_of(20)) is None
    assert simulate_steps(planned(tmp_path), pairs_of(MAX_SIMULATED_PAIRS)) is None
    assert simulate_steps(planned(tmp_path), []) is None
    assert simulate_steps(planned(tmp_path, dataloader_drop_last=True), pairs_of(2)) is None  # not one batch


def test_groups_stay_within_the_budget_and_a_longer_pair_has_its_own_group() -> None:
    sizes = [5, 30, 7, 12, 1, 8]
    groups = split_by_token_budget(sizes, 20)
    assert sorted(chain(*groups)) == list(range(6))
    assert all(len(group) == 1 or sum(sizes[index] for index in group) <= 20 for group in groups)
    assert groups[0] == [1]


def test_numpy_and_torch_give_the_same_order() -> None:
    for count in (0, 1, 2, 3, 255, 256, 1000, 20_000):
        for seed in (0, 1, 42, 1 << 31, (1 << 32) - 1):
            assert numpy_order(count, seed) == random_order(count, seed).tolist(), (count, seed)
