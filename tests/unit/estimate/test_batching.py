"""The simulated steps equal the steps of the Trainer."""

from __future__ import annotations

import json
from itertools import chain, product
from pathlib import Path
from typing import Any

import pytest
from support.tiny import tiny_llama, tiny_tokenizer, write_pairs

from orpo_cli.data.prepare import prepare
from orpo_cli.estimate.batching import (
    MAX_SIMULATED_PAIRS,
    count_steps,
    numpy_order,
    random_order,
    simulate_steps,
    split_by_token_budget,
    steps_per_epoch,
    usable_pairs,
)
from orpo_cli.estimate.pair_lengths import PairSize
from orpo_cli.machine import probe
from orpo_cli.planning.plan import Plan
from orpo_cli.planning.resolve import resolve
from orpo_cli.recipe.load import load_recipe
from orpo_cli.training.engine.packed_step import Engine
from orpo_cli.training.make_trainer import TrainingInputs, make_trainer
from orpo_cli.training.step_sampler import StepLayout, StepSampler


def planned(folder: Path, fast_path: str = "required", **training: Any) -> Plan:
    recipe = {
        "model": {"model_name_or_path": "unused/unused"},
        "lora": {"r": 2},
        "dataset": {"train": {"path": str(folder / "train.jsonl")}, "max_prompt_length": 128},
        "training": {
            "num_train_epochs": 2, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "max_length": 256,
            "save_strategy": "no", "use_cpu": True, "gradient_checkpointing": False, "seed": 7, **training,
        },
        "engine": {"fast_path": fast_path},
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


GRID = [  # the step of 17 takes each number of pairs, with other settings
    {"pairs": pairs, "per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation,
     "num_train_epochs": epochs, "dataloader_drop_last": drop_last}
    for batch, accumulation, epochs, drop_last, pairs in product((1, 2, 3), (1, 2), (0.3, 1, 1.5, 2.7), (False, True), range(1, 18))
][::19]  # fmt: skip
EDGES = [
    {"pairs": 7, "max_steps": 3, "num_train_epochs": 2.7},
    {"pairs": 2, "dataloader_drop_last": True, "max_steps": 3},
    {"pairs": 7, "train_sampling_strategy": "group_by_length", "dataloader_drop_last": True},
    {"pairs": 11, "train_sampling_strategy": "batch_rebalance"},
    {"pairs": 11, "train_sampling_strategy": "batch_rebalance", "dataloader_drop_last": True},
]


def test_counted_steps_equal_those_of_a_trainer_that_has_trained(tmp_path: Path) -> None:
    write_pairs(tmp_path / "train.jsonl", 17)
    tokenizer = tiny_tokenizer()
    lengths = {"max_length": 256, "max_prompt_length": 128}
    data = prepare(planned(tmp_path).dataset, tokenizer, **lengths, note=lambda _: None).train
    counted, trained = {}, {}
    for case in (*GRID, *EDGES):
        pairs = int(case["pairs"])
        plan = planned(tmp_path, "off", **{name: value for name, value in case.items() if name != "pairs"})
        if not steps_per_epoch(plan, pairs):  # refused before training
            assert pairs < plan.training["per_device_train_batch_size"]
            continue
        inputs = TrainingInputs(tiny_llama(len(tokenizer), layers=1), tokenizer, data.select(range(pairs)))
        trainer = make_trainer(plan, tmp_path / "out", inputs, [], lambda _: None)
        trainer.train()
        counted[str(case)], trained[str(case)] = count_steps(plan, pairs), trainer.state.global_step
    assert counted == trained
    assert len(counted) > 40


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("drop_last", [False, True], ids=["all pairs", "complete batches"])
def test_every_process_has_the_counted_steps(tmp_path: Path, processes: int, drop_last: bool) -> None:
    """The Trainer takes ``gradient_accumulation_steps`` batches of its sampler for a step, and what is left for the last one."""
    plan = planned(tmp_path, dataloader_drop_last=drop_last)
    together, batch = plan.launch.pairs_per_step, plan.training["per_device_train_batch_size"]
    accumulation = -(-together // (batch * processes))
    for pairs in range(1, 18):
        used = usable_pairs(pairs, batch, drop_last=drop_last)
        for rank in range(processes):
            layout = StepLayout(together, batch, False, processes, rank)
            batches = len(list(StepSampler(used, [1] * pairs, layout, lambda _, pairs=pairs: range(pairs))))
            assert steps_per_epoch(plan, pairs) == -(-batches // accumulation), (pairs, rank)


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
